"""A processor that nobody has seen: a class of this file, with its own tiles, placeholders and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.build import USER_TEMPLATE, tokenizer
from families.rows import picture, row
from sources import Rows

from vlm_prep.core.records import Encoded
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of
from vlm_prep.tokenize.verify.real_processor import Oracle

TILE = 64


class Zebra:
    """Neither a ProcessorMixin nor in transformers: only called as processors are.

    Cuts a picture into tiles of its own, numbers pictures within a row, writes tile coordinates as plain text, and
    returns tensors under names of its own, one of which only pictures of several tiles have.
    """

    chat_template = USER_TEMPLATE
    stripes = "<image>"

    def __init__(self, text: Any) -> None:
        self.tokenizer, self.image_processor = text, Stripes()

    def __call__(self, text: Sequence[str], images: Any = None, return_tensors: str | None = None, **_: Any) -> Any:
        flat = [each for group in images or [] for each in group]
        made = self.image_processor(flat) if flat else {}
        pieces = text[0].split(self.stripes)
        assert len(pieces) == len(flat) + 1
        written = pieces[0]
        for number, (piece, (rows, columns)) in enumerate(zip(pieces[1:], made.get("stripe_grid", []), strict=True)):
            tiles = "".join(f"({y},{x})" + "<z>" * 5 for y in range(int(rows)) for x in range(int(columns)))
            written += f"<zz>{number + 1}/{len(flat)}:{tiles}<zz>{piece}"
        ids = self.tokenizer(written)["input_ids"]
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
            **made,
        }

    def apply_chat_template(
        self, conversation: Any, chat_template: str, tokenize: bool = False, processor_kwargs: Any = None, **more: Any
    ) -> Any:
        from transformers.utils.chat_template_utils import render_jinja_template

        (text,), _ = render_jinja_template(conversations=[conversation], chat_template=chat_template, tools=None)
        parts = [part for message in conversation for part in message["content"]]
        images = [part["image"] for part in parts if part["type"] == "image" and "image" in part]
        return self(text=[text], images=[images] if images else None) if tokenize else text


class Stripes:
    """Its image processor."""

    def __call__(self, images: Any, **_: Any) -> dict[str, torch.Tensor]:
        flat = [each for group in images for each in (group if isinstance(group, list) else [group])]
        grids = [(max(1, each.height // 200), max(1, each.width // 200)) for each in flat]
        tiles = [
            torch.from_numpy(np.asarray(each.resize((TILE * columns, TILE * rows)), np.float32).copy())
            for each, (rows, columns) in zip(flat, grids, strict=True)
        ]
        cut = [tile.view(-1, TILE, TILE, 3) for tile in tiles]
        made = {"zebra_tiles": torch.cat(cut), "stripe_grid": torch.tensor(grids)}
        several = [tile.mean((1, 2)) for tile in cut if len(tile) > 1]
        return {**made, "zebra_means": torch.cat(several)} if several else made

    def to_json_string(self) -> str:
        return "{}"


@pytest.fixture(scope="module")
def zebra() -> LoadedProcessor:
    hf = Zebra(tokenizer(("<pad>", "<end>", "<image>", "<z>", "<zz>"), eos_token="<end>", pad_token="<pad>"))
    return LoadedProcessor("zebra", hf, {"class": "Zebra", "transformers": "none"})


def test_it_is_taken_exactly_with_nothing_but_the_generic_level(zebra: LoadedProcessor, kit: Path) -> None:
    data = kit / "data"
    coffee, tiny, cat = (picture(data, name) for name in ("coffee.png", "china_6x5.png", "chelsea.png"))
    several = (row("two", coffee, tiny), row("three", cat, tiny, cat))
    samples = (row("text"), row("one", coffee), row("tiny", tiny), *several)
    adapter = adapter_for(zebra)
    assert (adapter.family, adapter.level) == ("generic", "by row")
    job = TokenizeJob(Rows(samples), "zebra", TokenizeConfig())
    job.encoder = SampleEncoder(adapter, job.config)
    job.maker, job.oracle = None, Oracle(job.encoder, job.config)
    for result in job.results(0, len(samples)):
        assert isinstance(result, Encoded), result
        assert job.oracle.compare(row_of(result)).differences == ()
        trained = adapter.hf.tokenizer.decode(result.labels[result.labels != -100])
        assert trained.strip() == "A test.<end>"
