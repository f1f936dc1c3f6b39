"""Promise 1 for every family: ids, stored tensors and streamed tensors are the real processor's, on real media.

The expected side is the processor's own apply_chat_template on media that are decoded here. For each family and each
kind of conversation a store is made, opened by ShardDataset, and every tensor of both sides is compared.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from families.rows import REMOTE, Adapters
from items import as_trained
from PIL import Image, ImageOps
from scipy.signal import resample_poly
from sources import Rows

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.core.settings import AudioPayload, MediaMode, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.media.probe import probe
from vlm_prep.processors.adapter import Adapter
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_job import row_of
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.real_processor import Oracle

pytestmark = pytest.mark.usefixtures("gigatoken")

Levels = dict[str, str]
FAMILIES: dict[str, tuple[str, Levels]] = {
    "qwen2_vl": ("qwen2_vl", {"image": "formula", "video": "formula"}),
    "qwen2_5_vl": ("qwen2_5_vl", {"image": "formula", "video": "formula"}),
    "qwen3_vl": ("qwen3_vl", {"image": "formula", "video": "formula"}),
    "qwen2_5_omni": ("qwen2_5_omni", {"image": "formula", "video": "formula", "audio": "formula"}),
    "qwen3_omni_moe": ("qwen3_omni_moe", {"image": "formula", "video": "formula", "audio": "formula"}),
    "llava_onevision": ("llava_onevision", {"image": "formula", "video": "formula"}),
    "llava_onevision_1_5": ("qwen2_5_vl", {"image": "formula", "video": "formula"}),
    "internvl3": ("internvl", {"image": "formula", "video": "formula"}),
    "gemma3": ("gemma3", {"image": "by size"}),
    "gemma4": ("gemma4", {"image": "formula", "video": "formula", "audio": "by size"}),
    "pixtral": ("pixtral", {"image": "formula"}),
    "mistral3": ("pixtral", {"image": "formula"}),
    "kimi_vl": ("generic", {"image": "by size"}),
    "kimi_k25": ("kimi_k25", {"image": "formula", "video": "formula"}),
    "phi4_multimodal": ("phi4_multimodal", {"image": "by size", "audio": "formula"}),
    "nemotron_parse": ("nemotron_parse", {"image": "formula"}),
    "nemotron_omni": ("nemotron_omni", {"image": "formula", "video": "formula", "audio": "formula"}),
    "llava_next": ("generic", {"image": "formula"}),
    "idefics3": ("generic", {"image": "by size"}),
}
"""{processor: (family, level of each kind)}."""


def user(*parts: str) -> Message:
    """A user's turn: names of media kinds stand for media, the rest is text."""
    return {"role": "user", "content": [_part(part) for part in parts]}


def said(text: str) -> Message:
    """An assistant's turn."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _part(part: str) -> dict[str, Any]:
    return {"type": part} if part in ("image", "video", "audio") else {"type": "text", "text": part}


def image(name: str) -> Media:
    return Media(kind="image", uris=(f"images/{name}",))


def video(name: str, *frames: int) -> Media:
    return Media(kind="video", uris=(f"videos/{name}",), frame_indices=frames)


def audio(name: str) -> Media:
    return Media(kind="audio", uris=(f"audio/{name}",))


CONVERSATIONS: dict[str, tuple[list[Message], tuple[Media, ...]]] = {
    "text": ([user("Who are you?"), said("A test.")], ()),
    "one picture": ([user("image", "What is this?"), said("A cup of coffee.")], (image("coffee.png"),)),
    "several sizes": (
        [user("image", "image", "Compare", "image", "and say."), said("They differ.")],
        (image("coffee.png"), image("chelsea.png"), image("camera.png")),
    ),
    "6x5": ([user("image", "What?"), said("Tiny.")], (image("china_6x5.png"),)),
    "2000x8": ([user("See", "image", "What?"), said("Wide.")], (image("china_2000x8.png"),)),
    "several turns": (
        [user("image", "What is this?"), said("Coffee."), user("And", "image"), said("A cat.")],
        (image("coffee.png"), image("china_exif6.jpg")),
    ),
    "video": (
        [user("video", "What happens?"), said("A phone.")],
        (video("carphone_distorted.mp4", *range(0, 120, 15)),),
    ),
    "odd frames": ([user("video", "What happens?"), said("Bikes.")], (video("bikes.mp4", *range(0, 70, 10)),)),
    "picture and video": (
        [user("video", "image", "What happens?"), said("A phone."), user("image"), said("Yes.")],
        (video("carphone_distorted.mp4", 0, 20, 40, 60), image("coffee.png"), image("camera.png")),
    ),
    "audio": ([user("audio", "Transcribe."), said("Ask not.")], (audio("jfk.flac"),)),
    "several audios": (
        [user("Transcribe.", "audio", "audio"), said("Ask not.")],
        (audio("derived/jfk_8000.wav"), audio("pocketsphinx/cards_001.wav")),
    ),
    "all kinds": (
        [user("video", "image", "audio", "What happens?"), said("A phone.")],
        (video("carphone_distorted.mp4", 0, 20, 40, 60), image("coffee.png"), audio("pocketsphinx/cards_001.wav")),
    ),
}
REFUSED = {
    ("2000x8", "aspect_ratio"): (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen2_5_omni",
        "qwen3_omni_moe",
        "llava_onevision_1_5",
        "phi4_multimodal",
    ),
    ("several sizes", "processor_error"): ("nemotron_parse",),
    ("several turns", "processor_error"): ("nemotron_parse",),
}
"""Rows that the real processor raises on: {(conversation, reason): processors}."""
RESIZED_IN_FLOAT = ("phi4_multimodal", "nemotron_omni")
"""Processors that resize after they have left uint8."""
each_family = pytest.mark.parametrize("name", FAMILIES)


def rows_for(kinds: tuple[str, ...], data: Path) -> Rows:
    samples = []
    for line, (name, (messages, media)) in enumerate(CONVERSATIONS.items(), start=1):
        if {item.kind for item in media} <= set(kinds):
            here = tuple(
                Media(kind=item.kind, uris=(str(data / item.uris[0]),), frame_indices=item.frame_indices)
                for item in media
            )
            sample = Sample(sample_id=name, dataset="kit", source="kit", line=line, messages=messages, media=here)
            samples.append(sample)
    return Rows(tuple(samples))


# --- the expected side ----


def decoded(item: Media, data: Path, rate: int | None) -> tuple[Any, dict[str, Any] | None]:
    """A media as the processor is given it, and a video's metadata."""
    path = str(data / item.uris[0])
    if item.kind == "image":
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB"), None
    if item.kind == "audio":
        wave, found = soundfile.read(path, dtype="float32", always_2d=True)
        mono = wave.mean(axis=1)
        return (mono if found == rate else resample_poly(mono, rate, found).astype(np.float32)), None
    frames, metadata = video_frames(path, item.frame_indices or ())
    return frames.copy(), dict(metadata)


@functools.cache
def video_frames(path: str, indices: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
    """Some frames of a video, of which all are decoded, and its metadata."""
    with av.open(path) as file:
        stream = file.streams.best("video")
        fps = float(stream.average_rate)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
    return frames[list(indices)], {
        "total_num_frames": len(frames),
        "fps": fps,
        "height": frames.shape[1],
        "width": frames.shape[2],
        "duration": len(frames) / fps,
        "frames_indices": list(indices),
    }


def expected(adapter: Adapter, name: str, data: Path) -> dict[str, torch.Tensor]:
    """What the real processor makes of a conversation."""
    messages, media = CONVERSATIONS[name]
    found = [decoded(item, data, adapter.sampling_rate) for item in media]
    queue = iter(item for item, _ in found)
    filled = [
        {
            **message,
            "content": [part if "text" in part else {**part, part["type"]: next(queue)} for part in message["content"]],
        }
        for message in messages
    ]
    metadata = [each for _, each in found if each is not None]
    return dict(adapter.call(filled, None, adapter.call_options(metadata)))


# --- the tests ----


@pytest.fixture(scope="module")
def stores(adapters: Adapters, folders: Any, kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`stores("gemma3", ...)`: the family's store of all conversations with a payload, made once."""

    @functools.cache
    def store(name: str, media: MediaMode = "encoded", audio: AudioPayload = "waveform") -> Path:
        out = tmp_path_factory.mktemp(name) / "out"
        rows = rows_for(adapters(name).kinds, kit / "data")
        config = TokenizeConfig(verify_fraction=0.0, trust_remote_code=name in REMOTE, media=media, audio=audio)
        options = RunOptions(out=out, workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)
        tokenize(rows, str(folders(name)), config, options)
        return out

    return store


def refused(name: str) -> dict[str, str]:
    return {conversation: reason for (conversation, reason), names in REFUSED.items() if name in names}


@each_family
def test_the_family_and_its_levels(adapters: Adapters, name: str) -> None:
    family, levels = FAMILIES[name]
    adapter = adapters(name)
    assert adapter.family == family
    assert {kind: adapter.levels.get(kind, "by size") for kind in adapter.kinds} == levels


@each_family
def test_every_streamed_tensor_is_the_processors(adapters: Adapters, stores: Any, kit: Path, name: str) -> None:
    adapter = adapters(name)
    payloads: list[dict[str, Any]] = [{}, {"media": "pixels"}]
    if "audio" in adapter.kinds:
        payloads.append({"media": "pixels", "audio": "features"})
    datasets = [
        ShardDataset(stores(name, **payload), shuffle=False, trust_remote_code=name in REMOTE) for payload in payloads
    ]
    written = [row for row in rows_for(adapter.kinds, kit / "data").samples if row.sample_id not in refused(name)]
    assert [len(dataset) for dataset in datasets] == [len(written)] * len(datasets)
    for index in range(len(written)):
        real = expected(adapter, written[index].sample_id, kit / "data")
        for dataset in datasets:
            item = dataset[index]
            assert item["sample_id"] == written[index].sample_id
            assert_equal(item, dict(real), name)
        assert_batches_say_of_tokens_what_the_processor_says(datasets[0], datasets[0][index], real)


@each_family
def test_pixels_are_stored_as_bytes_wherever_that_loses_nothing(stores: Any, name: str) -> None:
    store = Store(stores(name, media="pixels"))
    payload = store.manifest.processor["payload"]
    assert payload is not None
    routes = {kind: form["route"] for kind, form in payload["forms"].items() if kind != "audio"}
    assert ("exact" in routes.values()) == (name in RESIZED_IN_FLOAT), routes
    for row in store.rows():
        for struct in row["media"]:
            assert all(file["bytes"] is None for file in struct["files"])
            for tensor in struct["tensors"]:
                if "pixel_values" in tensor["name"]:
                    assert (tensor["dtype"] == "uint8") == (name not in RESIZED_IN_FLOAT), tensor["name"]


@each_family
def test_what_the_processor_cannot_take_is_rejected(adapters: Adapters, stores: Any, kit: Path, name: str) -> None:
    rejected = {row["sample_id"]: row["reason"] for row in read_rejects(stores(name))}
    assert rejected == refused(name)
    for conversation in rejected:
        if "parse" not in name:  # whose processor would take several pages and its model one
            with pytest.raises(Exception, match=r"."):
                expected(adapters(name), conversation, kit / "data")


@each_family
def test_what_is_trained_is_the_answers_and_nothing_else(adapters: Adapters, stores: Any, name: str) -> None:
    dataset = ShardDataset(stores(name), shuffle=False, pixels=False)
    decode = adapters(name).hf.tokenizer.decode
    for index in range(len(dataset)):
        item = dataset[index]
        trained = decode(item["labels"][item["labels"] != -100])
        for message in CONVERSATIONS[item["sample_id"]][0]:
            text = next(part["text"] for part in [*message["content"], {"text": "no text"}] if "text" in part)
            assert (text in trained) == (message["role"] == "assistant"), (item["sample_id"], trained)


def assert_equal(item: dict[str, Any], real: dict[str, torch.Tensor], name: str) -> None:
    where = f"{name}, {item['sample_id']}"
    item = as_trained(item)
    ids = real.pop("input_ids")[0]
    assert torch.equal(item["input_ids"], ids), where
    assert torch.equal(real.pop("attention_mask")[0], torch.ones_like(ids)), where
    for types in [key for key in real if key.endswith("token_type_ids")]:
        real.pop(types)  # made from ids when a batch is collated, and compared there
    others = {"sample_id", "input_ids", "labels", "n_images", "n_videos", "n_audios"}
    ours = {key: value for key, value in item.items() if key not in others and len(value)}
    assert set(ours) == set(real), where
    for key, tensor in real.items():
        tensor = torch.as_tensor(tensor)
        assert ours[key].dtype == tensor.dtype, (where, key)
        assert torch.equal(ours[key], tensor), (where, key)


def assert_batches_say_of_tokens_what_the_processor_says(
    dataset: ShardDataset, item: dict[str, Any], real: dict[str, torch.Tensor]
) -> None:
    expected = {key: tensor for key, tensor in real.items() if key.endswith("token_type_ids")}
    length = len(item["input_ids"])
    pack = {**item, "seq_lens": np.array([length]), "position_ids": np.arange(length)}
    made = [PadCollate.for_store(dataset, shift=False, max_length=length + 3)([item])]
    made.append(PackedCollate.for_store(dataset, attention="own", max_length=length + 3)([pack]))
    for batch in made:
        found = {key: tensor for key, tensor in batch.items() if key.endswith("token_type_ids")}
        if "decoder_input_ids" in batch:
            assert not found
            continue
        assert set(found) == set(expected), item["sample_id"]
        for key, tensor in expected.items():
            assert found[key].dtype == torch.as_tensor(tensor).dtype
            assert torch.equal(found[key][:, :length], torch.as_tensor(tensor)), (item["sample_id"], key)
            assert not found[key][:, length:].any()


PREFIX = "<|turn>model\n<|channel>thought\n<channel|>"


def test_gemma4_answers_begin_with_an_untrained_thinking_channel_on_request(adapters: Adapters, kit: Path) -> None:
    adapter = adapters("gemma4")
    encoder = SampleEncoder(adapter, TokenizeConfig(thinking_prefix=True))
    oracle = Oracle(encoder, encoder.config)
    for name in ("text", "several turns", "all kinds"):
        (sample,) = [row for row in rows_for(adapter.kinds, kit / "data").samples if row.sample_id == name]
        media = tuple(probe(item)[0] for item in sample.media)
        encoded = encoder.encode(replace(sample, media=media), (None,) * len(media))
        answers = [message["content"][0]["text"] for message in sample.messages if message["role"] == "assistant"]
        decode = adapter.hf.tokenizer.decode
        assert decode(encoded.input_ids).count(PREFIX) == len(answers)
        assert decode(encoded.labels[encoded.labels != -100]) == "".join(f"{answer}<turn|>" for answer in answers)
        assert oracle.compare(row_of(encoded)).differences == ()


def test_a_family_without_a_thinking_channel_refuses_it(adapters: Adapters) -> None:
    with pytest.raises(ProcessorError, match="no thinking channel"):
        SampleEncoder(adapters("gemma3"), TokenizeConfig(thinking_prefix=True))
