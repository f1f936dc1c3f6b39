"""A processor whose ways a few calls do not show: rows that differ are made by asking it, and no run stops at them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.rows import Made
from PIL import Image

from vlm_prep.core.errors import ExactnessError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.tasks import Poison
from vlm_prep.engine.workspace import Workspace
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import Manifest
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.tokenize.tokenize_run import retry_tokenize, tokenize
from vlm_prep.tokenize.verify.asking import ASKED
from vlm_prep.tokenize.verify.real_processor import Oracle
from vlm_prep.tokenize.verify.store import check_store

CODE = '''
import os

import torch
from transformers import LlavaProcessor


class OddProcessor(LlavaProcessor):
    """Half the tokens for four pictures and more, one more for a red corner, a tensor of its own for banners."""

    def replace_image_token(self, image_inputs, image_idx, **kwargs):
        pixels = image_inputs["pixel_values"]
        red, green, _ = pixels[image_idx][:, 0, 0]
        count = 16 // (2 if len(pixels) > 3 else 1) + int(float(red) > 1.9 and float(green) < -1.7)
        return self.image_token * count

    def _get_num_multimodal_tokens(self, **kwargs):
        raise NotImplementedError

    def __call__(self, images=None, text=None, **options):
        if "picky" in str(text) and not os.environ.get("ODD_TAKES_ALL"):
            raise ValueError("too picky")
        made = super().__call__(images=images, text=text, **options)
        flat = [each for group in images or [] for each in (group if isinstance(group, list) else [group])]
        wide = [each.width for each in flat if each.width > 8 * each.height]
        return {**made, "banner_widths": torch.tensor(wide)} if wide else made
'''
ROWS = 262  # two tasks
SEVERAL, RED, BANNERS, PLAIN = (5, 120, 261), (10, 258), (7, 257), (50, 200, 259)
CONFIG = TokenizeConfig(trust_remote_code=True, verify_fraction=1e-9)  # the first rows of shapes alone
SHOWN = {("plain",) * 4: SEVERAL, ("red",): RED, ("banner",): BANNERS, ("plain",): PLAIN}
ODD = (*SEVERAL, *RED, *BANNERS)


@pytest.fixture(scope="module")
def odd(made: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("processor") / "odd"
    shutil.copytree(made("LlavaProcessor"), folder)
    (folder / "processing_odd.py").write_text(CODE)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    named = {"processor_class": "OddProcessor", "auto_map": {"AutoProcessor": "processing_odd.OddProcessor"}}
    side = {"height": 56, "width": 56}
    parts = {"image_processor": {**config["image_processor"], "size": {"shortest_edge": 56}, "crop_size": side}}
    path.write_text(json.dumps(config | named | parts))
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 120, (90, 120, 3), np.uint8)
    red = noise.copy()
    red[:40, :40] = (255, 0, 0)
    made = {"plain": noise, "red": red, "banner": np.repeat(noise[:10], 2, 1)[:, :200]}
    for name, array in made.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    return {name: str(folder / f"{name}.png") for name in made}


@pytest.fixture
def run(tmp_path: Path, odd: str, pictures: dict[str, str], options: Any) -> Callable[..., Manifest]:
    """`run(out, picky_rows, workers=0)`: tokenize rows among which some are odd."""

    def row(number: int, text: str) -> dict[str, Any]:
        names = next((names for names, numbers in SHOWN.items() if number in numbers), ())
        content = [*({"type": "image", "image": pictures[name]} for name in names), {"type": "text", "text": text}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
        return {"messages": [{"role": "user", "content": content}, answer]}

    def tokenized(out: str, picky: tuple[int, ...] = (), config: TokenizeConfig = CONFIG, **settings: Any) -> Manifest:
        rows = [row(number, "picky" if number in picky else f"hello {number % 7}") for number in range(ROWS)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        manifest = tokenize(open_samples(tmp_path / "rows.jsonl"), odd, config, options(tmp_path / out, **settings))
        assert manifest is not None
        return manifest

    return tokenized


def test_rows_that_differ_are_made_by_asking_whatever_the_workers(
    tmp_path: Path, run: Callable[..., Manifest], odd: str, tree: Any
) -> None:
    said: list[str] = []
    for workers in (0, 3):
        manifest = run(f"out{workers}", workers=workers, say=said.append)
        assert manifest.totals["rejects"] == {}
        assert manifest.totals[ASKED] == len(ODD)
    assert tree(tmp_path / "out0") == tree(tmp_path / "out3")
    assert sum("7 rows were made by asking the whole processor" in line for line in said) == 2
    found = check_store(tmp_path / "out0", odd, trust_remote_code=True)
    assert (found.sound, found.rows, found.differences) == (True, ROWS, [])
    items = {item["sample_id"]: item for item in ShardDataset(tmp_path / "out0")}
    image = {number: items[f"rows/{number}"] for number in (*ODD, *PLAIN)}
    token = Counter(image[7]["input_ids"].tolist()).most_common(1)[0][0]
    counted = {number: int((item["input_ids"] == token).sum()) for number, item in image.items()}
    assert [counted[number] for number in (5, 10, 7, 50)] == [4 * 8, 17, 16, 16]
    assert all(torch.equal(torch.as_tensor(image[n]["banner_widths"]), torch.tensor([200])) for n in BANNERS)
    assert "banner_widths" not in image[50]


@pytest.mark.parametrize("payload", ["encoded", "pixels"])
def test_every_payload_holds_them(tmp_path: Path, run: Callable[..., Manifest], odd: str, payload: Any) -> None:
    config = TokenizeConfig(trust_remote_code=True, verify_fraction=1e-9, media=payload)
    assert run("out", config=config).totals[ASKED] == len(ODD)
    assert check_store(tmp_path / "out", odd, trust_remote_code=True).sound


def test_a_run_that_is_killed_while_they_are_noted_finds_the_rest(
    tmp_path: Path, run: Callable[..., Manifest], tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("whole")
    noted: list[int] = []
    add = Workspace.add_poison

    def killed(self: Workspace, poison: Poison) -> None:
        if len(noted) == 2:
            raise KeyboardInterrupt
        noted.append(poison.row)
        add(self, poison)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "add_poison", killed)
        with pytest.raises(KeyboardInterrupt):
            run("out")
    run("out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_differs_even_so_is_a_reject(
    tmp_path: Path, run: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = Oracle._differing_tensors

    def never(self: Oracle, stored: Any, real: Any) -> list[str]:
        return ["banner_widths: never"] if "banner_widths" in real else compare(self, stored, real)

    monkeypatch.setattr(Oracle, "_differing_tensors", never)
    manifest = run("out")
    assert manifest.totals["rejects"] == {"processor_differs": len(BANNERS)}
    rejects = list(read_rejects(tmp_path / "out"))
    assert [row["sample_id"] for row in rejects] == [f"rows/{number}" for number in BANNERS]
    assert "banner_widths: never" in rejects[0]["message"]


def test_a_family_that_differs_stops_the_run(run: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    init = Oracle.__init__

    def as_a_family(self: Oracle, *arguments: Any) -> None:
        init(self, *arguments)
        self.may_ask = False

    monkeypatch.setattr(Oracle, "__init__", as_a_family)
    with pytest.raises(ExactnessError, match="differs from the real processor"):
        run("out")


def test_a_retry_compares_every_row_that_the_processor_refused(
    tmp_path: Path, run: Callable[..., Manifest], odd: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = (3, 60, 260)
    manifest = run("out", picky)
    assert manifest.totals["rejects"] == {"processor_error": 3}
    seen: list[str] = []
    compare = Oracle.compare

    def taken(self: Oracle, stored: Any) -> Any:
        seen.append(stored["sample_id"])
        with monkeypatch.context() as patched:
            if stored["sample_id"] == "rows/3":  # repaired; the others are not, and have the same shape
                patched.setenv("ODD_TAKES_ALL", "1")
            return compare(self, stored)

    monkeypatch.setattr(Oracle, "compare", taken)
    samples = open_samples(tmp_path / "rows.jsonl")
    said: list[str] = []
    again = retry_tokenize(
        samples, odd, ["processor_error"], options(tmp_path / "out", say=said.append), trust_remote_code=True
    )
    assert again.totals["rejects"] == {"processor_error": 2}
    assert {"rows/60", "rows/260"} <= set(seen)
    assert [row["sample_id"] for row in read_rejects(tmp_path / "out")] == ["rows/60", "rows/260"]
