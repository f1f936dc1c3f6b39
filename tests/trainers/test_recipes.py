"""The recipes of docs/trainers.md train as they stand there, over what the page has one make."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers.exporting import export
from vlm_prep.trainers.start import start

ROOT = Path(__file__).resolve().parents[2]
PROCESSOR = "builtin:qwen2.5-vl-mini"
BEFORE = "from vlm_prep.processors.torchvision_cpu import ensure_torchvision\nensure_torchvision()\n"
STEPS = 2


def recipe(section: str, language: str) -> str:
    """The first block of a section, with fewer steps."""
    page = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    text = page[page.index(f"\n## {section}\n") :]
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.sub(r"max_steps(: |=)20", rf"max_steps\g<1>{STEPS}", found[1])


def run(line: list[str], folder: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
        "AXOLOTL_DO_NOT_TRACK": "1",
    }
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def place(options: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `out/tiny`, `out/tok` and `out/packed`, as the page's first commands make them."""
    folder: Path = tmp_path_factory.mktemp("recipes")
    out = folder / "out"
    samples = open_samples(builtin_data().parent / "photo_talk.jsonl", limit=8)
    tokenize(samples, PROCESSOR, TokenizeConfig(), options(out / "tok"))  # type: ignore[operator]
    pack(out / "tok", PackConfig(pack_length=1280), options(out / "packed"))  # type: ignore[operator]
    run([sys.executable, str(ROOT / "scripts" / "trainers" / "tiny_model.py"), "out/tiny"], folder)
    return folder


@pytest.mark.parametrize(("section", "package"), [("Hugging Face Trainer", "accelerate"), ("TRL", "trl")])
def test_a_python_recipe_trains_on_packs(section: str, package: str, place: Path) -> None:
    pytest.importorskip(package)
    told = "\nimport json; json.dump(trainer.state.log_history, open('log.json', 'w'))\n"
    run([sys.executable, "-c", BEFORE + recipe(section, "python") + told], place)
    losses = [entry["loss"] for entry in json.loads((place / "log.json").read_text()) if "loss" in entry]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(8.2, abs=0.2)


@pytest.mark.parametrize(
    ("section", "trainer", "words"),
    [
        ("axolotl", "axolotl", ["axolotl", "train", "recipe.yaml", "--launcher", "python"]),
        ("LLaMA-Factory", "llamafactory", ["llamafactory-cli", "train", "recipe.yaml"]),
    ],
)
def test_a_recipe_of_a_command_trains(section: str, trainer: str, words: list[str], place: Path) -> None:
    python = ROOT / f".venv-trainers-{trainer}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{trainer} is not installed: `make test-trainers`")
    if trainer == "llamafactory":
        export(place / "out" / "tok", "llamafactory", place / "out" / "for-llamafactory")
    (place / "recipe.yaml").write_text(recipe(section, "yaml"))
    run([str(python), "-m", "vlm_prep.trainers.start", *words], place)
    (state,) = (place / "out" / trainer / f"checkpoint-{STEPS}").glob("trainer_state.json")
    losses = [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(8.2, abs=0.2)


def test_a_command_that_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match="no package that is installed here has the command 'some-trainer'"):
        start(["some-trainer", "train"])
