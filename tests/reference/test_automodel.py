"""Outputs beside those of NVIDIA NeMo Automodel, the pipeline that vlm-prep replaces, where it is right.

Skipped unless it is installed: `pip install --no-deps nemo-automodel==0.7.0`. An oracle for values, no dependency.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.formats import to_sample
from vlm_prep.ingest.meta import load_source
from vlm_prep.ingest.sampling import pick_rows
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset
from vlm_prep.stream.forms import Mask
from vlm_prep.tokenize.tokenize_run import tokenize

ensure_torchvision()
datasets = pytest.importorskip(
    "nemo_automodel.components.datasets.vlm.datasets", reason="pip install --no-deps nemo-automodel==0.7.0"
)
collate_fns = pytest.importorskip("nemo_automodel.components.datasets.vlm.collate_fns")


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def store(request: pytest.FixtureRequest, kit: Path, processors: Path, options: Any, tmp_path_factory: Any) -> Path:
    """The kit's meta JSON, tokenized."""
    out: Path = tmp_path_factory.mktemp("reference") / "tok"
    samples = open_samples(kit / "data" / "meta.json")
    config = TokenizeConfig(max_length=8192, fps=2.0)
    tokenize(samples, str(processors / request.param), config, options(out))
    (out.parent / "processor").write_text(str(processors / request.param))
    return out


def test_labels_are_those_of_the_template_path(store: Path) -> None:
    processor = load_processor((store.parent / "processor").read_text()).hf
    for row in Store(store).rows():
        ids = torch.from_numpy(np.array(row["input_ids"])).long()[None]
        messages = json.loads(row["conversation"])["messages"]
        expected = collate_fns.build_labels_from_template(ids, [messages], processor)[0].numpy()
        assert np.array_equal(expected, row["labels"]), row["sample_id"]


def test_padded_batches_are_those_of_pad_collate_fn(store: Path) -> None:
    dataset = ShardDataset(store, seed=1)
    items = [dataset[index] for index in range(24)]
    ours = PadCollate.for_store(dataset, pixel_dtype=torch.bfloat16)(items)
    processor = load_processor((store.parent / "processor").read_text()).hf
    expected = collate_fns.pad_collate_fn([_pretokenized(item, processor) for item in items], processor)
    for name, tensor in expected.items():
        assert torch.equal(tensor, ours[name]), name


def test_packed_batches_are_those_of_neat_packing(store: Path, options: Any, tmp_path: Path) -> None:
    pack(store, PackConfig(pack_length=8192), options(tmp_path / "packed"))
    dataset = ShardDataset(tmp_path / "packed", pixels=False)
    items = [dataset[index] for index in range(2)]
    packs = [
        {
            **{name: _int64(item[name]) for name in ("input_ids", "labels", "position_ids")},
            "attention_mask": torch.from_numpy(np.arange(len(item["seq_lens"])) + 1).repeat_interleave(
                _int64(item["seq_lens"])
            ),
            "seq_lens": item["seq_lens"].tolist(),
            "seq_lens_padded": item["seq_lens"].tolist(),
        }
        for item in items
    ]
    collate = PackedCollate.for_store(dataset, mask="sdpa")
    expected = collate_fns.neat_packed_vlm_collater(packs, padding_idx=collate.pad_token_id)
    ours = collate(items)
    for name in ("input_ids", "labels", "position_ids", "attention_mask"):
        assert torch.equal(expected[name], ours[name]), name
    forms: dict[Mask, Any] = {
        "document_ids": (
            collate_fns.neat_packed_vlm_collater(packs, materialize_4d_mask=False),
            ("attention_mask",),
        ),
        "thd": (
            collate_fns.packed_sequence_thd_vlm_collater(packs),
            ("seq_lens", "seq_lens_padded", "qkv_format"),
        ),
    }
    for mask, (expected, names) in forms.items():
        ours = PackedCollate.for_store(dataset, mask=mask)(items)
        for name in names:
            assert np.array_equal(expected[name], ours[name]), (mask, name)


def test_varlen_batches_are_those_of_the_flash_varlen_contract(store: Path, options: Any, tmp_path: Path) -> None:
    packed_seq = pytest.importorskip("nemo_automodel.components.datasets.packed_seq")
    pack(store, PackConfig(pack_length=8192), options(tmp_path / "packed"))
    dataset = ShardDataset(tmp_path / "packed", pixels=False)
    items = [dataset[index] for index in range(2)]
    documents = PackedCollate.for_store(dataset, mask="document_ids")(items)["attention_mask"]
    expected = packed_seq.to_flash_attention_kwargs(packed_seq.packed_seq_params_from_doc_ids(documents))
    ours = PackedCollate.for_store(dataset, mask="varlen")(items)
    for name, value in expected.items():
        assert np.array_equal(value, ours[name]), name


@pytest.mark.parametrize("total", [1, 7, 10, 100, 997])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.25, 0.5, 0.9, 1.0, 1.5, 2.0, 2.25, 2.3, 3.7])
def test_picks_are_those_of_the_unsharded_rule(tmp_path: Path, total: int, ratio: float) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"row": row}) + "\n" for row in range(total)))
    rows, _ = datasets._load_jsonl_for_rank(str(path), ratio, 0, 1)
    assert [row["row"] for row in rows] == pick_rows(total, ratio).tolist()


def test_sharegpt_rows_with_media_become_the_same_conversation(kit: Path) -> None:
    for spec in load_source(kit / "data" / "meta.json", datasets=["mllm_image", "mllm_video"]):
        for row in json.loads(spec.file.read_text()):
            expected = datasets.convert_sharegpt_to_conversation(row, media_dir=str(spec.media_dir))["conversation"]
            sample = to_sample(row, spec, sample_id="a/0", source="a.json", line=1)
            media = iter(sample.media)
            assert expected == [
                {
                    "role": message["role"],
                    "content": [
                        part if part["type"] == "text" else {**part, part["type"]: next(media).uris[0]}
                        for part in message["content"]
                    ],
                }
                for message in sample.messages
            ]


TURNS = [
    " <image>\n What is it? ",
    "<image>",
    "\n<IMAGE>a <video> b<image>\n",
    " plain \n",
    "a\n<image>\n\nb",
    "< image >",
]


@pytest.mark.parametrize("text", TURNS)
def test_blanks_are_stripped_as_there_by_a_setting(text: str, tmp_path: Path) -> None:
    tags = text.lower()
    row: dict[str, Any] = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": " a "}]}
    row |= {"images": ["a.png"] * tags.count("<image>"), "videos": ["a.mp4"] * tags.count("<video>")}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (spec,) = load_source(tmp_path / "a.jsonl", tag_blanks="strip")
    expected = datasets.convert_sharegpt_to_conversation(row, media_dir=str(tmp_path))["conversation"]
    sample = to_sample(row, spec, sample_id="a/0", source="a.json", line=1)
    for message, other in zip(sample.messages, expected, strict=True):
        kinds = [part["type"] for part in other["content"]]
        assert [part["type"] for part in message["content"]] == kinds
        said = [part["text"] for part in message["content"] if part["type"] == "text"]
        assert said == [part["text"] for part in other["content"] if part["type"] == "text"]


def _int64(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values).astype(np.int64))


def _pretokenized(item: dict[str, Any], processor: Any) -> dict[str, Any]:
    """An item as PreTokenizedDatasetWrapper yields it."""
    ids = _int64(item["input_ids"])
    kinds = torch.zeros_like(ids)
    kinds[ids == processor.image_token_id] = 1
    kinds[ids == processor.video_token_id] = 2
    pixels, grids = ("pixel_values", "pixel_values_videos"), ("image_grid_thw", "video_grid_thw")
    return {
        "input_ids": ids,
        "labels": _int64(item["labels"]),
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": kinds,
        **{name: item[name] for name in pixels if name in item},
        **{name: _int64(item[name]) for name in grids if name in item and len(item[name])},
    }
