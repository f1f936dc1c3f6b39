"""An error of ours is caught: a wrong tensor stops the run, labels found otherwise reject the row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.cases import Options

from vlm_prep.core.errors import ExactnessError, RejectRateError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.payload.patches import Patches
from vlm_prep.shards.layout import read_rejects
from vlm_prep.tokenize.labels.spans import weigh
from vlm_prep.tokenize.tokenize_run import tokenize

pytestmark = pytest.mark.usefixtures("gigatoken")

PAGE = 384, 191
"""Width and height of the picture of `one_page`."""
# --- an error of ours is caught -----


def wrong_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_prep.processors.families.qwen_vl import Qwen2VL

    right = Qwen2VL._image_grid
    # the same number of tokens, lying down instead of standing; for the page alone, since a family whose arithmetic is
    # wrong for the sizes that it is compared with when it is loaded is not asked any more
    monkeypatch.setattr(
        Qwen2VL, "_image_grid", lambda self, h, w: right(self, w, h) if (w, h) == PAGE else right(self, h, w)
    )


def wrong_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_prep.tokenize.text import TextEncoder, Tokens

    right = TextEncoder.encode

    def encode(self: TextEncoder, text: str, apart: int | None = None) -> Tokens:
        tokens = right(self, text, apart)
        ids = tokens.ids.copy()
        ids[-3] += 1
        return replace(tokens, ids=ids)

    monkeypatch.setattr(TextEncoder, "encode", encode)


def wrong_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_prep.tokenize import encoder

    right = weigh

    def spans(*arguments: Any) -> Any:
        *others, (start, end, weight) = right(*arguments)
        return [*others, (start, end - len("<|im_end|>"), weight)]

    monkeypatch.setattr(encoder, "weigh", spans)


def wrong_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of a picture that training is given, as a decoder or a resize of another version would make it."""
    right = Patches.of_media

    def of_media(self: Patches, struct: Any) -> Any:
        made = right(self, struct)
        return {
            **made,
            "pixel_values": np.where(np.arange(made["pixel_values"].shape[-1]) == 7, 0, made["pixel_values"]),
        }

    monkeypatch.setattr(Patches, "of_media", of_media)


def one_page(kit: Path, folder: Path) -> Path:
    """A data file of one row, a question about a page."""
    messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A page."}]
    row = {"messages": messages, "images": [str(kit / "data" / "images" / "page.png")]}
    (folder / "some.jsonl").write_text(json.dumps(row))
    return folder / "some.jsonl"


@pytest.mark.parametrize(
    ("field", "inject"),
    [
        ("image_grid_thw", wrong_grid),
        ("input_ids", wrong_ids),
        ("pixel_values", wrong_pixels),
    ],
    ids=["grid", "ids", "pixels"],
)
def test_a_wrong_tensor_stops_the_run_and_is_named(
    kit: Path, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch, field: str, inject: Any
) -> None:
    data = one_page(kit, tmp_path)
    inject(monkeypatch)
    with pytest.raises(ExactnessError) as caught:
        tokenize(open_samples(data), "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "out"))
    assert "some/0" in caught.value.message
    assert field in caught.value.message
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_labels_that_two_ways_find_otherwise_reject_the_row(
    kit: Path, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_labels(monkeypatch)
    with pytest.raises(RejectRateError):
        tokenize(
            open_samples(one_page(kit, tmp_path)),
            "builtin:qwen2.5-vl-mini",
            TokenizeConfig(),
            options(tmp_path / "out"),
        )
    (reject,) = read_rejects(tmp_path / "out")
    assert (reject["sample_id"], reject["reason"]) == ("some/0", "labels_undecidable")
    assert "labels" in reject["message"]
