"""Rows that the real processor cannot take and no rule knows: rejects, whatever the workers, their order and kills."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_processor
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.tasks import Poison
from vlm_prep.engine.workspace import Workspace
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import Manifest
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.choose import is_chosen

CODE = '''
from transformers import Qwen2_5_VLProcessor


class PickyProcessor(Qwen2_5_VLProcessor):
    """Refuses what neither headers nor templates tell."""

    def __call__(self, images=None, text=None, **options):
        if "picky" in str(text):
            raise ValueError("too picky")
        return super().__call__(images=images, text=text, **options)
'''
ROWS = 520  # three tasks
CONFIG = TokenizeConfig(trust_remote_code=True, verify_fraction=0.02)
CHOSEN = [number for number in range(ROWS) if is_chosen(f"rows/{number}", CONFIG.verify_fraction)]


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in processor, with code of its own that refuses some rows."""
    folder = tmp_path_factory.mktemp("processor") / "picky"
    shutil.copytree(builtin_processor("qwen2.5-vl-mini"), folder)
    (folder / "processing_picky.py").write_text(CODE)
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if path.exists():
            config = json.loads(path.read_text())
            config |= {
                "processor_class": "PickyProcessor",
                "auto_map": {"AutoProcessor": "processing_picky.PickyProcessor"},
            }
            path.write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def run(tmp_path: Path, picky: str, options: Any) -> Callable[..., Manifest]:
    """`run(out, picky_rows, workers=1)`: tokenize rows of which some are refused."""

    def tokenized(out: str, refused: Sequence[int], **settings: Any) -> Manifest:
        source = tmp_path / "rows.jsonl"
        texts = ["picky" if number in refused else f"hello {number % 7}" for number in range(ROWS)]
        rows = [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]} for text in texts
        ]
        source.write_text("\n".join(map(json.dumps, rows)))
        manifest = tokenize(open_samples(source), picky, CONFIG, options(tmp_path / out, **settings))
        assert manifest is not None
        return manifest

    return tokenized


def refused_rows(out: Path) -> list[tuple[str, str]]:
    return [(row["sample_id"], row["reason"]) for row in read_rejects(out)]


def expected(numbers: Sequence[int]) -> list[tuple[str, str]]:
    return [(f"rows/{number}", "processor_error") for number in sorted(numbers)]


@pytest.mark.parametrize(
    ("refused", "numbers"),
    [
        pytest.param((0, 5, 300, 519), (0, 1, 3), id="the first of their shape"),
        pytest.param(
            (CHOSEN[-1], *(each for each in (7, 300, 519) if each not in CHOSEN)), (0, 3), id="one that is chosen"
        ),
    ],
)
def test_every_row_of_a_refused_shape_is_found_by_any_number_of_workers(
    tmp_path: Path, run: Callable[..., Manifest], refused: Sequence[int], numbers: tuple[int, ...], tree: Any
) -> None:
    for workers in numbers:
        manifest = run(f"out{workers}", refused, workers=workers)
        assert manifest.totals["rejects"] == {"processor_error": len(refused)}
        assert refused_rows(tmp_path / f"out{workers}") == expected(refused)
        assert tree(tmp_path / f"out{workers}") == tree(tmp_path / "out0")


def test_what_is_refused_alone_among_others_of_its_shape_does_not_depend_on_workers(
    tmp_path: Path, run: Callable[..., Manifest], tree: Any
) -> None:
    # the first rows of tasks, which a worker may compare as first ones of their shape, and rows in the midst of them
    alone = [number for number in (1, 256, 257, 512, 519) if number not in CHOSEN]
    for workers in (0, 2):
        assert run(f"out{workers}", alone, workers=workers).totals["rejects"] == {}
    assert tree(tmp_path / "out0") == tree(tmp_path / "out2")


@pytest.mark.parametrize("after", [1, 3])
def test_a_run_that_is_killed_while_refused_rows_are_noted_finds_the_rest(
    tmp_path: Path, run: Callable[..., Manifest], tree: Any, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    refused = (0, 5, CHOSEN[-1], 300)
    run("whole", refused)
    noted: list[int] = []
    add = Workspace.add_poison

    def killed(self: Workspace, poison: Poison) -> None:
        if len(noted) == after:
            raise KeyboardInterrupt
        noted.append(poison.row)
        add(self, poison)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "add_poison", killed)
        with pytest.raises(KeyboardInterrupt):
            run("out", refused)
    assert len(noted) == after
    run("out", refused)
    assert refused_rows(tmp_path / "out") == expected(refused)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
