"""The run files in configs/ are true, and the page of settings is the settings'."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import flags, main, settings_table
from vlm_prep.cli.run_file import read_run_file

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "configs").glob("*.yaml"))
JOBS = {
    "qwen2.5-vl-sft": "qwen2_5_vl",
    "qwen3-vl-sft": "qwen3_vl",
    "several-data-sets": "qwen2_5_vl",
    "speech-qwen-omni": "qwen2_5_omni",
    "thinking": "qwen3_vl",
    "array-job": "qwen2_5_vl",
    "object-store": None,
}
"""Example → the kit's processor that stands for the one it names; None: parsed alone (its store is on S3)."""


def test_the_page_of_settings_is_the_settings() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_table.page()


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES} == set(JOBS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_only_settings_that_exist(path: Path) -> None:
    file = read_run_file(path)
    for stage in file.sections or ["tokenize"]:
        assert flags.of_stage(stage, file)["source"]


@pytest.fixture(scope="module")
def folders(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The kit's processors by family, assembled when first asked for."""
    out = tmp_path_factory.mktemp("processors")

    def folder(family: str) -> Path:
        if not (out / family).exists():
            script = str(kit / "processors" / "assemble.py")
            subprocess.run([sys.executable, script, str(out), family], check=True, capture_output=True)
        return out / family

    return folder


def data_of(name: str, kit: Path) -> dict[str, Any]:
    """Return what stands in for the data that an example names."""
    if name == "speech-qwen-omni":
        return {"source": str(kit / "data" / "audio_dataset")}
    if name in ("qwen3-vl-sft", "thinking"):
        return {"source": str(builtin_data().parent / "photo_talk.jsonl")}
    return {"source": str(builtin_data())}


@pytest.mark.parametrize("name", [name for name, family in JOBS.items() if family])
def test_an_example_runs(
    name: str,
    kit: Path,
    folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    family = JOBS[name]
    assert family is not None
    written |= {"processor": str(folders(family)), "out": str(tmp_path / "out"), "workers": 1, "limit": 4}
    written |= data_of(name, kit)
    if "media_dir" in (written.get("ingest") or {}):
        written["ingest"]["media_dir"] = str(builtin_data().parent)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(written))
    job = "tokenize" in written
    line = ["run", str(file), "--json", "-q"] if job else ["tokenize", "--config", str(file), "--json", "-q"]
    monkeypatch.setattr(sys, "argv", ["vlm-prep", *line])
    with pytest.raises(SystemExit) as ended:
        main.main()
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    totals = json.loads(told.out)
    for each in totals if job else [totals["totals"]]:
        assert each["rows_in"] == each["rows_written"] > 0


def test_the_commands_in_the_examples_and_the_page_exist() -> None:
    texts = [path.read_text() for path in EXAMPLES] + [(ROOT / "docs" / "jobs.md").read_text()]
    named = {name for text in texts for name in re.findall(r"vlm-prep ([a-z]+)", text)}
    assert named <= set(main.COMMANDS), named - set(main.COMMANDS)
