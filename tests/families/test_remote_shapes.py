"""Processors with code of their own, in public shapes and in odd ones: exact rows, batches and packs, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families.outcomes import ROWS, media_in, sample
from families.remote_shapes import build
from sources import Rows

from vlm_prep.core.errors import ProcessorError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.records import Encoded
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.payload.nested import Nested, kept, same_values
from vlm_prep.processors.token_types import of_text
from vlm_prep.stream.collate import PackedCollate, PadCollate
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of
from vlm_prep.tokenize.tokenize_run import tokenize

CONFIG = TokenizeConfig(trust_remote_code=True)
PICTURES = {name: parts for name, parts in ROWS.items() if all(part.startswith("image") for part in parts)}
TAKEN = {
    "DotsVLProcessor": "formula",
    "Ovis2_5Processor": "by size",
    "TilesProcessor": "by row",
    "NestedProcessor": "by size",
    "TwoSizesProcessor": "by size",
}
"""{class: the level of its pictures}."""
LISTS = {"Ovis2_5Processor": ("pixel_values", "grids"), "TilesProcessor": ("tiles",), "NestedProcessor": ("scales",)}


def samples_in(folder: Path) -> Rows:
    media = media_in(folder)
    return Rows(tuple(sample(name, tuple(media[each] for each in parts)) for name, parts in PICTURES.items()))


def real_rows(job: TokenizeJob) -> dict[str, dict[str, Any]]:
    """What the processor makes of each row, and that the row is equal to it."""
    found = {}
    for result in job.results(0, len(job.samples)):
        assert isinstance(result, Encoded), result
        assert job.oracle.compare(row_of(result)).differences == ()
        found[result.sample_id] = {name: kept(value) for name, value in job.oracle.real(row_of(result)).items()}
    return found


@pytest.mark.parametrize("name", TAKEN)
def test_rows_batches_and_packs_are_what_the_processor_makes(name: str, tmp_path: Path, options: Any) -> None:
    folder, samples = build(name, tmp_path / name), samples_in(tmp_path)
    job = TokenizeJob(samples, str(folder), CONFIG)
    job.setup()
    assert job.encoder.adapter.level == TAKEN[name]
    real = real_rows(job)
    manifest = tokenize(samples, str(folder), CONFIG, options(tmp_path / "tok"))
    assert manifest is not None
    assert manifest.totals["rows_written"] == len(PICTURES)
    data = ShardDataset(tmp_path / "tok", trust_remote_code=True)
    items = list(data)
    batch = PadCollate.for_store(data, shift=False)(items)
    for number, item in enumerate(items):
        ids = real[item["sample_id"]]["input_ids"][0]
        assert torch.equal(batch["input_ids"][number, : len(ids)], ids.long())
    for tensor in sorted({each for row in real.values() for each in row if not of_text(each)}):
        rows = [real[item["sample_id"]][tensor] for item in items if tensor in real[item["sample_id"]]]
        if tensor in LISTS.get(name, ()):
            assert same_values(Nested(each for row in rows for each in row), batch[tensor])
        else:
            assert torch.equal(torch.cat(rows), batch[tensor])
    config = PackConfig(pack_length=4096)
    if name == "NestedProcessor":
        with pytest.raises(StoreError, match="scales in a list for each row"):
            pack(tmp_path / "tok", config, options(tmp_path / "packed"))
        return
    pack(tmp_path / "tok", config, options(tmp_path / "packed"))
    packs = ShardDataset(tmp_path / "packed", trust_remote_code=True)
    packed = list(packs)
    of_pack = PackedCollate.for_store(packs)(packed)
    order = [each for item in packed for each in item["sample_ids"]]
    for tensor in LISTS.get(name, ()):
        rows = [real[each][tensor] for each in order if tensor in real[each]]
        assert same_values(Nested(each for row in rows for each in row), of_pack[tensor])


def test_tensors_in_lists_are_no_payload(tmp_path: Path, options: Any) -> None:
    folder = build("TilesProcessor", tmp_path / "tiles")
    config = TokenizeConfig(trust_remote_code=True, media="pixels")
    with pytest.raises(ProcessorError, match="returns tiles in lists of tensors, which shards do not hold"):
        tokenize(samples_in(tmp_path), str(folder), config, options(tmp_path / "out"))


def test_what_tells_places_in_the_text_is_named(tmp_path: Path) -> None:
    job = TokenizeJob(samples_in(tmp_path), str(build("MiniCPMOProcessor", tmp_path / "o")), CONFIG)
    with pytest.raises(ProcessorError, match="takes no media in a chat") as caught:
        job.setup()
    assert "image_bound depends on where its placeholder stands" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (None, "are not known"),
        ({"model_type": "dots_ocr", "rope_theta": 1e6}, ""),
        ({"model_type": "dots_mrope", "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, ""),
    ],
)
def test_a_borrowed_processor_says_nothing_of_positions(
    model: dict[str, Any] | None, told: str, tmp_path: Path, options: Any
) -> None:
    folder, samples = build("DotsVLProcessor", tmp_path / "dots"), samples_in(tmp_path)
    if model is not None:
        (folder / "config.json").write_text(json.dumps(model))
    tokenize(samples, str(folder), CONFIG, options(tmp_path / "tok"))
    said: list[str] = []
    pack(tmp_path / "tok", PackConfig(pack_length=4096), options(tmp_path / "packed", say=said.append))
    (item, *_) = ShardDataset(tmp_path / "packed", trust_remote_code=True)
    assert item["position_ids"].ndim == 1
    assert not told or any(told in line for line in said)
