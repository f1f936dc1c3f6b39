"""`vlm-prep why` names what differs, for each stage, and says by its status whether anything does."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_prep.builtin import builtin_data, builtin_processor
from vlm_prep.cli.main import main
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]
Why = Callable[..., tuple[int, str]]


@pytest.fixture
def why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Why:
    """`why(folder, ...)`: the exit status and what was printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vlm-prep", "why", *(str(each) for each in arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().out

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copy(builtin_data().parent / "tool_talk.json", tmp_path / "rows.json"))


@pytest.fixture
def processor(tmp_path: Path) -> Path:
    return Path(shutil.copytree(builtin_processor("qwen2.5-vl-mini"), tmp_path / "processor"))


def test_the_same_command_has_no_difference(source: Path, tmp_path: Path, options: Options, why: Why) -> None:
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))
    status, out = why(tmp_path / "out", source, "--workers", 2, "--out", tmp_path / "out")
    assert (status, "nothing changed" in out) == (0, True)
    assert why(tmp_path / "out")[0] == 0


def test_a_flag_an_input_and_a_limit_are_named(source: Path, tmp_path: Path, options: Options, why: Why) -> None:
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))
    source.write_bytes(source.read_bytes().replace(b"Porto", b"Lyon!"))
    status, out = why(tmp_path / "out", source, "--check-media", "decode", "--limit", 3)
    assert status == 1
    assert "flag       config.check_media: 'header' then, 'decode' now" in out
    assert "input      samples.datasets.0.xxh3: " in out
    assert "input      samples.datasets.0.picks: 4 then, 3 now" in out
    status, out = why(tmp_path / "out", "--json")
    assert (status, [line.partition(":")[0] for line in json.loads(out)]) == (1, ["samples.datasets.0.xxh3"])


@pytest.mark.parametrize(("file", "meaning"), [("chat_template.jinja", "template"), ("tokenizer.json", "tokenizer")])
def test_a_changed_file_of_the_processor_is_named(
    source: Path, processor: Path, tmp_path: Path, options: Options, why: Why, file: str, meaning: str
) -> None:
    tokenize(open_samples(source), str(processor), TokenizeConfig(), options(tmp_path / "out"))
    path = processor / file
    if file == "tokenizer.json":
        found = json.loads(path.read_text())
        found["model"]["merges"].pop()
        path.write_text(json.dumps(found))
    else:
        path.write_text(path.read_text() + "{# a comment #}!")
    status, out = why(tmp_path / "out", source, "--processor", processor)
    assert status == 1
    found = {line.split()[0] for line in out.splitlines()}
    # all rows can be encoded again with another template, of another tokenizer they cannot
    assert found == ({"1", meaning, "update"} if meaning == "template" else {"1", meaning})


def test_a_packed_store_is_compared_with_its_source_as_it_is_now(
    tokenized: Path, tmp_path: Path, options: Options, why: Why
) -> None:
    pack(tokenized, PackConfig(pack_length=2048), options(tmp_path / "out"))
    assert why(tmp_path / "out")[0] == 0
    status, out = why(tmp_path / "out", tokenized, "--pack-length", 4096)
    assert status == 1
    assert "flag       config.pack_length: 2048 then, 4096 now" in out


def test_a_jobs_file_is_held_against_the_stores_before_a_pack_too(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: Why
) -> None:
    file = tmp_path / "job.yaml"
    text = f"source: {source}\nprocessor: builtin:qwen2.5-vl-mini\nout: job\nworkers: 1\nmax_reject_rate: 1\n"
    file.write_text(text + "ingest:\ntokenize:\n  max_length: 2000\npack:\n  pack_length: 2048\n")
    monkeypatch.setattr(sys, "argv", ["vlm-prep", "run", str(file), "-q"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    packed = tmp_path / "job" / "packed"
    assert why(packed, "--config", file)[0] == 0
    status, out = why(packed, "--config", file, "--set", "tokenize.max_length=1000", "--set", "ingest.limit=3")
    assert status == 1
    assert "flag       tokenize: config.max_length: 2000 then, 1000 now" in out
    assert "input      ingest: samples.datasets.0.picks: 4 then, 3 now" in out
