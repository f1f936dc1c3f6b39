"""What becomes of every row of a folder of odd inputs, with every processor: written, or rejected and why.

    python scripts/cases.py CASES PROCESSORS [--case 09] [--processor qwen3_vl] [--json FILE]

CASES holds a folder a situation, with data files in it; PROCESSORS a folder a processor. Every data file is tokenized
with every processor, all rows compared with the real one; a row on which processors agree is said once. A data file
whose text says `/ABSOLUTE/` is read from a copy in which that is its folder's real place.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import VlmPrepError
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.report.labels_text import runs_of_row
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize import recipe
from vlm_prep.tokenize.tokenize_run import tokenize

DATA = (".json", ".jsonl", ".gz", ".parquet")
Outcome = dict[str, Any]


def data_files(cases: Path, only: list[str]) -> Iterator[Path]:
    """Yield the data files of the situations whose folders begin with one of `only`."""
    for path in sorted(cases.rglob("*")):
        situation = path.relative_to(cases).parts[0]
        if path.is_file() and path.suffix in DATA and (not only or situation.startswith(tuple(only))):
            yield path


def outcomes(file: Path, processor: str, settings: dict[str, Any]) -> dict[str, Outcome]:
    """Return what becomes of each row of a data file."""
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        config = TokenizeConfig(verify_fraction=1.0, **settings)
        options = RunOptions(out=out, workers=0, progress=False, say=said.append)
        try:
            tokenize(open_samples(file), processor, config, options)
        except VlmPrepError as error:
            if not (out / "manifest.json").exists():
                return {"whole file": {"outcome": type(error).__name__, "why": str(error)}}
        return {
            **_rejects(out),
            **_written(out, processor, config.processor),
            **({"notes": {"outcome": "said", "why": said}} if said else {}),
        }


def _rejects(out: Path) -> dict[str, Outcome]:
    return {row["sample_id"]: {"outcome": row["reason"], "why": row["message"]} for row in read_rejects(out)}


def _written(out: Path, processor: str, config: ProcessorConfig) -> dict[str, Outcome]:
    store, found = Store(out, stage="tokenize"), {}
    tokenizer = _load(processor, config).hf.tokenizer
    media: set[int] = set()
    for index in range(len(store)):
        row = store.row(index)
        pieces = [run.text for run in runs_of_row(row, tokenizer, media) if run.trained]
        found[row["sample_id"]] = {"outcome": "written", "why": " | ".join(pieces)}
    return found


_loaded: dict[tuple[str, str], LoadedProcessor] = {}


def _load(name: str, config: ProcessorConfig) -> LoadedProcessor:
    key = name, repr(config)
    if key not in _loaded:
        if len(_loaded) > 2:
            _loaded.clear()
        _loaded[key] = load_processor(name, config)
    return _loaded[key]


def copied(cases: Path, folder: Path) -> Path:
    """Return a copy of the cases in which `/ABSOLUTE/` is their place."""
    target = folder / "cases"
    shutil.copytree(cases, target)
    for path in target.rglob("*.jsonl"):
        path.chmod(0o644)
        data = path.read_bytes()
        slashed = str(target).strip("/").replace("/", "\\/").encode()
        path.write_bytes(data.replace(b"ABSOLUTE", slashed))
    return target


def main() -> None:
    """Run all of it and print a row a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("processors", type=Path)
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--processor", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], help="a setting of tokenize, name=JSON")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    setattr(recipe, "load_processor", _load)  # noqa: B010 - each processor is loaded once, not once a file
    settings = {name: json.loads(value) for name, _, value in (each.partition("=") for each in given.set)}
    names = given.processor or sorted(path.name for path in given.processors.iterdir() if path.is_dir())
    found: dict[str, dict[str, dict[str, Outcome]]] = defaultdict(lambda: defaultdict(dict))
    with tempfile.TemporaryDirectory() as folder:
        cases = given.cases.resolve()
        if any(b"ABSOLUTE" in file.read_bytes() for file in data_files(cases, given.case)):
            cases = copied(cases, Path(folder))
        for name in names:
            for file in data_files(cases, given.case):
                where = str(file.relative_to(cases))
                for row, outcome in outcomes(file, str(given.processors / name), settings).items():
                    text = json.dumps(outcome, ensure_ascii=False).replace(str(cases), "CASES")
                    found[where][row][name] = json.loads(text)
    for where, rows in found.items():
        print(f"== {where}")
        for row, by_processor in rows.items():
            groups: dict[str, list[str]] = defaultdict(list)
            for name, outcome in by_processor.items():
                groups[f"{outcome['outcome']}: {outcome['why']}"].append(name)
            for text, group in groups.items():
                who = "all" if len(group) == len(names) else ", ".join(group)
                print(f"  {row} [{who}] {text!r}")
    if given.json:
        given.json.write_text(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
