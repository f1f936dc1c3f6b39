"""Presets beside NeMo Automodel's own builders: every row of theirs is ours, message by message and byte by byte.

Skipped unless it is installed: `pip install --no-deps nemo-automodel==0.7.0`. An oracle for values, no dependency.
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlm_prep.core.records import Media, Sample
from vlm_prep.ingest.mapping.pieces import json2token
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.audio import read_waveform
from vlm_prep.media.files import read_bytes
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()
reference = pytest.importorskip(
    "nemo_automodel.components.datasets.vlm.datasets", reason="pip install --no-deps nemo-automodel==0.7.0"
)


def ours(source: str, **options: Any) -> list[Any]:
    samples = open_samples(source, **options)
    return [row for row in samples.read(0, len(samples)) if isinstance(row, Sample)]


def content(sample: Sample) -> list[Any]:
    """A sample as the reference writes it, media as their uris."""
    media = iter(sample.media)
    return [
        {
            "role": message["role"],
            "content": [
                part if part["type"] == "text" else {"type": part["type"], part["type"]: next(media)}
                for part in message["content"]
            ],
        }
        for message in sample.messages
    ]


def assert_same(samples: list[Sample], expected: list[Any], folder: Path | None = None) -> None:
    """Compare conversations; pictures by their pixels, or by their paths in a folder."""
    assert len(samples) == len(expected) > 0
    for sample, row in zip(samples, expected, strict=True):
        mine = content(sample)
        assert [message["role"] for message in mine] == [message["role"] for message in row["conversation"]]
        for own, other in zip(mine, row["conversation"], strict=True):
            assert [part["type"] for part in own["content"]] == [part["type"] for part in other["content"]]
            for part, theirs in zip(own["content"], other["content"], strict=True):
                if part["type"] == "text":
                    assert part["text"] == theirs["text"]
                else:
                    same_picture(part["image"], theirs["image"], folder)


def same_picture(own: Media, theirs: Any, folder: Path | None) -> None:
    if isinstance(theirs, str):
        assert own.uris == (str((folder or Path()) / theirs),)
        return
    decoded = Image.open(io.BytesIO(read_bytes(own.uris[0])))
    assert np.array_equal(np.asarray(decoded), np.asarray(theirs))


@pytest.mark.parametrize(
    ("name", "builder"),
    [
        ("rdr", "make_rdr_dataset"),
        ("medpix", "make_medpix_dataset"),
        ("shopify", "make_shopify_product_catalogue_dataset"),
        ("unimm-chat", "make_unimm_chat_dataset"),
    ],
)
def test_sets_of_pictures(name: str, builder: str, lookalikes: Path) -> None:
    found = getattr(reference, builder)(str(lookalikes / name))
    assert_same(ours(f"preset:{name}={lookalikes / name}"), [found[index] for index in range(len(found))])


def test_cord(lookalikes: Path) -> None:
    random.seed(0)  # one of several truths is drawn; in these rows there is one
    assert_same(
        ours(f"preset:cord-v2={lookalikes / 'cord-v2'}"), reference.make_cord_v2_dataset(str(lookalikes / "cord-v2"))
    )


def test_one_of_several_truths_of_a_receipt_is_one_of_theirs(tmp_path: Path) -> None:
    utils = pytest.importorskip("nemo_automodel.components.datasets.vlm.utils")
    truths: list[Any] = [{"menu": [{"nm": "a", "cnt": 1}, {"nm": None}]}, {"total": {"price": True}}, {"x": []}]
    rows = [{"image": "a.png", "ground_truth": json.dumps({"gt_parses": truths})} for _ in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [content(row)[1]["content"][0]["text"] for row in ours(f"preset:cord-v2={tmp_path / 'a.jsonl'}")]
    assert set(said) == {utils.json2token(each, sort_json_key=True) for each in truths}


def test_json2token_of_any_tree() -> None:
    utils = pytest.importorskip("nemo_automodel.components.datasets.vlm.utils")
    draws = random.Random(1)

    def tree(depth: int) -> Any:
        kind = draws.random()
        if depth == 0 or kind < 0.4:
            return draws.choice(["a", "", " x ", 1, -3, 1.5, True, False, None, "<s_b>", "\u65e5"])
        if kind < 0.6:
            return [tree(depth - 1) for _ in range(draws.randrange(4))]
        if kind < 0.66:
            return {"text_sequence": "t"}
        return {draws.choice("abX_") + str(draws.randrange(3)): tree(depth - 1) for _ in range(draws.randrange(4))}

    for _ in range(500):
        value = tree(4)
        assert json2token(value) == utils.json2token(value, sort_json_key=True)


def test_llava_instruct_with_pictures_in_cells_and_with_names_of_files(lookalikes: Path, kit: Path) -> None:
    folder = lookalikes / "llava-next"
    assert_same(ours(f"preset:llava-instruct={folder}"), reference.make_llava_onevision_dataset(str(folder)))
    names = lookalikes / "llava150k"
    pictures = kit / "data" / "images"
    assert_same(
        ours(f"preset:llava-instruct={names / 'llava_instruct_150k.json'}", media_dir=str(pictures)),
        reference.make_llava_onevision_dataset(str(names)),
        pictures,
    )


@pytest.mark.parametrize("limit", [None, 7])
def test_the_mix_of_tulu_and_magicoder(lookalikes: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    load = reference.load_dataset
    places = {"allenai/tulu-3-sft-mixture": "tulu3", "ise-uiuc/Magicoder-OSS-Instruct-75K": "magicoder"}
    monkeypatch.setattr(reference, "load_dataset", lambda name, **how: load(str(lookalikes / places[name]), **how))
    expected = reference.make_tulu3_magicoder_text_mix_dataset(limit_total=limit)
    assert_same(ours(f"preset:tulu3-magicoder={lookalikes}", limit=limit), expected)


def test_common_voice(lookalikes: Path) -> None:
    audio = pytest.importorskip("nemo_automodel.components.datasets.audio.datasets")
    expected = audio.make_cv17_dataset(str(lookalikes / "cv17"))
    samples = ours(f"preset:cv17={lookalikes / 'cv17'}")
    assert len(samples) == len(expected)
    for sample, row in zip(samples, (expected[index] for index in range(len(expected))), strict=True):
        user, assistant = sample.messages
        # there the text says Phi-4's placeholder of a sound, which here the model's own template writes
        assert "<|endoftext11|>" + user["content"][1]["text"] == row["conversation"][0]["content"]
        assert assistant["content"][0]["text"] == row["conversation"][1]["content"]
        wave, rate = row["audio"]
        assert np.array_equal(read_waveform(read_bytes(sample.media[0].uris[0]), rate, "a"), wave)


@pytest.mark.parametrize(
    "prompts", [{}, {"system_prompt": "S"}, {"user_prompt": "U"}, {"system_prompt": "S", "user_prompt": "U"}]
)
def test_any_set_of_speech(prompts: dict[str, str], lookalikes: Path) -> None:
    audio = pytest.importorskip("nemo_automodel.components.datasets.audio.datasets")
    expected = audio.make_hf_audio_asr_dataset(str(lookalikes / "ami"), **prompts)
    samples = ours(f"preset:asr={lookalikes / 'ami'}", **prompts)
    assert len(samples) == len(expected)
    for sample, row in zip(samples, (expected[index] for index in range(len(expected))), strict=True):
        for own, theirs in zip(sample.messages, row["conversation"], strict=True):
            texts = [part["text"] for part in own["content"] if part["type"] == "text"]
            other = theirs["content"]
            assert own["role"] == theirs["role"]
            assert texts == (
                [other] if isinstance(other, str) else [each["text"] for each in other if each["type"] == "text"]
            )
