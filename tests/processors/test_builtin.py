"""The built-in processor and demo data: real, complete, and the same text as Qwen2.5-VL renders."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jinja2.sandbox
import numpy as np
import pytest
from PIL import Image, ImageOps

from vlm_prep.builtin import builtin_data, builtin_processor

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT.parent / "shared" / "kit"
PEER_TEMPLATE = KIT / "processors" / "families" / "qwen2_5_vl" / "chat_template.jinja"
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
NOT_SPECIAL = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
IMAGE: dict[str, Any] = {"type": "image"}
VIDEO: dict[str, Any] = {"type": "video"}


def text(value: str) -> dict[str, Any]:
    """A text part."""
    return {"type": "text", "text": value}


@pytest.fixture(scope="module")
def processor() -> Any:
    """The built-in processor, loaded the way users load any processor."""
    from vlm_prep.processors.torchvision_cpu import ensure_torchvision

    ensure_torchvision()
    from transformers import AutoProcessor

    auto: Any = AutoProcessor
    return auto.from_pretrained(builtin_processor("qwen2.5-vl-mini"), local_files_only=True)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``.json`` array or a ``.jsonl`` file."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in content.splitlines()]
    return list(json.loads(content))


# --- the functions -----


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    for name in ("no-such", "", "..", "../data"):
        with pytest.raises(ValueError, match=r"qwen2\.5-vl-mini"):
            builtin_processor(name)


# --- the tokenizer -----


def test_processor_classes(processor: Any) -> None:
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert type(processor.tokenizer).__name__ == "Qwen2Tokenizer"
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessor"


def test_control_tokens_follow_the_vocabulary(processor: Any) -> None:
    tokenizer = processor.tokenizer
    path = builtin_processor("qwen2.5-vl-mini") / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) == 256 + len(content["model"]["merges"])
    names = SPECIAL + NOT_SPECIAL
    ids = list(range(len(vocabulary), len(vocabulary) + 22))
    assert tokenizer.convert_tokens_to_ids(names) == ids
    assert len(tokenizer) == len(vocabulary) + 22
    added = tokenizer.added_tokens_decoder
    assert [added[number].content for number in ids] == names
    assert [added[number].special for number in ids] == [True] * len(SPECIAL) + [False] * len(NOT_SPECIAL)
    assert [token["id"] for token in content["added_tokens"]] == ids
    for number, name in zip(ids, names, strict=True):
        assert tokenizer(f"a{name}b")["input_ids"].count(number) == 1
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.bos_token is None
    assert set(tokenizer.all_special_tokens) == set(SPECIAL)


@pytest.mark.parametrize(
    "sample",
    [
        "A red cup on a brown table.",
        "It's 12,345.67 — isn't it?\r\n\tTabs,  two spaces   and trailing  ",
        "图片里有一只猫，它的眼睛是黄绿色的。龘",
        "emoji 😀👩‍🚀🏳️‍🌈 and ñ é ü ß Ω Ж ع 한",
        '{"name": "get_weather", "arguments": {"city": "Porto"}}\n\n\ndef f(x):\n    return x ** 2\n',
        "\x00\x7f\u00ad\u200b",
        "",
    ],
)
def test_round_trip(processor: Any, sample: str) -> None:
    ids = processor.tokenizer(sample)["input_ids"]
    assert processor.tokenizer.decode(ids) == sample


def test_text_is_composed_before_it_is_cut(processor: Any) -> None:
    assert processor.tokenizer("e\u0301")["input_ids"] == processor.tokenizer("\u00e9")["input_ids"]


def test_skipping_special_tokens_keeps_the_tool_tags(processor: Any) -> None:
    ids = processor.tokenizer("<|im_start|>a<tool_call>b</tool_call><|im_end|>")["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == "a<tool_call>b</tool_call>"


def test_common_words_are_single_tokens(processor: Any) -> None:
    for word in (" the", " picture", " and", " photograph", "图片"):
        assert len(processor.tokenizer(word)["input_ids"]) == 1, word


# --- images and videos -----


def test_token_counts_are_those_of_the_grids(processor: Any) -> None:
    data = builtin_data().parent
    with Image.open(data / "photos" / "coffee.jpg") as opened:
        coffee = ImageOps.exif_transpose(opened).convert("RGB")
    with Image.open(data / "photos" / "chelsea.jpg") as opened:
        chelsea = opened.convert("RGB")
    frames = np.zeros((6, 168, 224, 3), dtype=np.uint8)
    messages = [{"role": "user", "content": [IMAGE, text("and"), IMAGE, VIDEO, text("?")]}]
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    batch = processor(text=[rendered], images=[coffee, chelsea], videos=[frames], return_tensors="pt")
    # 600 x 400 and 451 x 300, each side rounded to a multiple of 28, in patches of 14.
    assert batch["image_grid_thw"].tolist() == [[1, 28, 42], [1, 22, 32]]
    assert batch["video_grid_thw"].tolist() == [[3, 12, 16]]
    ids = batch["input_ids"][0].tolist()
    image_pad, video_pad = processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    assert ids.count(image_pad) == (28 * 42 + 22 * 32) // 4
    assert ids.count(video_pad) == 3 * 12 * 16 // 4
    assert batch["pixel_values"].shape == (28 * 42 + 22 * 32, 3 * 2 * 14 * 14)
    assert batch["pixel_values_videos"].shape == (3 * 12 * 16, 3 * 2 * 14 * 14)


def test_image_settings(processor: Any) -> None:
    images = processor.image_processor
    assert (images.patch_size, images.temporal_patch_size, images.merge_size) == (14, 2, 2)
    assert dict(images.size) == {"shortest_edge": 3136, "longest_edge": 12845056}
    assert list(images.image_mean) == [0.48145466, 0.4578275, 0.40821073]
    assert list(images.image_std) == [0.26862954, 0.26130258, 0.27577711]


# --- the chat template -----


def test_template_text(processor: Any) -> None:
    messages = [
        {"role": "user", "content": [IMAGE, text("What?")]},
        {"role": "assistant", "content": "A cat."},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True, add_vision_id=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nPicture 1: <|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


CONTENTS: list[Any] = [
    "plain",
    "",
    "  spaces kept \n\n",
    "图片 😀 {{ messages }} {% raw %} <|im_end|> & <b>",
    [],
    [text("")],
    [text(" a "), text("\n"), text("b")],
    [IMAGE, text("What?")],
    [text("Look"), IMAGE, IMAGE, VIDEO, text("and"), IMAGE, VIDEO],
    [{"type": "image", "image": "photos/a.jpg"}, {"type": "video", "video": "clips/b.mp4", "fps": 2}],
    [
        {"type": "image_url", "image_url": {"url": "a.jpg"}},
        {"image": "b.jpg"},
        {"video": "c.mp4"},
        {"text": "d"},
    ],
    [{"type": "video", "image": "both.jpg"}, {"type": "text", "text": "t", "image": "odd.jpg"}],
    [{"type": "text", "text": None}, {"type": "text", "text": 3}, {"type": "audio", "audio": "a.wav"}, {}],
    ["text", "an image", "a video", "other"],
    {"type": "image"},
]
ROLES = ["system", "user", "assistant", "tool", "observation", ""]


def conversations() -> list[list[dict[str, Any]]]:
    """Every content in every role, first and second; every pair of contents; and a few odd ones."""
    found: list[list[dict[str, Any]]] = [[]]
    for role, content in itertools.product(ROLES, CONTENTS):
        message = {"role": role, "content": content}
        found.append([message])
        found.append([{"role": "user", "content": [IMAGE, VIDEO]}, message])
        found.append([{"role": "system", "content": "Be brief."}, message, message])
    for first, second in itertools.product(CONTENTS, CONTENTS):
        found.append([{"role": "user", "content": first}, {"role": "assistant", "content": second}])
    found.append([{"role": "user"}, {"content": "no role"}])
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    found.append(
        [
            {"role": "user", "content": "Call."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "f", "content": [text("1"), IMAGE]},
            {"role": "assistant", "content": "Done."},
        ]
    )
    for entry in json.loads(builtin_data().read_text(encoding="utf-8")).values():
        rows = rows_of(builtin_data().parent / entry["file_name"])
        found.extend(row["messages"] for row in rows if "messages" in row)
    return found


@pytest.mark.parametrize("trim", [True, False], ids=["blocks-trimmed", "plain"])
def test_template_renders_the_text_of_qwen(trim: bool) -> None:
    if not PEER_TEMPLATE.is_file():
        pytest.skip("the test kit (../shared/kit) with Qwen2.5-VL's own template is not here")
    # The peer relies on trimmed blocks, as transformers renders; the built-in one must not depend on them.
    peer_env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    own_env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=trim, lstrip_blocks=trim)
    peer = peer_env.from_string(PEER_TEMPLATE.read_text(encoding="utf-8"))
    folder = builtin_processor("qwen2.5-vl-mini")
    own = own_env.from_string((folder / "chat_template.jinja").read_text(encoding="utf-8"))
    flags: list[dict[str, Any]] = [
        {},
        {"add_generation_prompt": True},
        {"add_vision_id": True},
        {"add_generation_prompt": True, "add_vision_id": True, "tools": [{"name": "f"}]},
        {"add_generation_prompt": False, "add_vision_id": False},
    ]
    for messages, options in itertools.product(conversations(), flags):
        expected = peer.render(messages=messages, **options)
        assert own.render(messages=messages, **options) == expected, (messages, options)


def test_rendered_text_through_transformers_is_that_of_qwen(processor: Any) -> None:
    if not PEER_TEMPLATE.is_file():
        pytest.skip("the test kit (../shared/kit) with Qwen2.5-VL's own template is not here")
    peer = PEER_TEMPLATE.read_text(encoding="utf-8")
    tokenizer = processor.tokenizer
    for messages in conversations()[1:]:
        expected = tokenizer.apply_chat_template(messages, chat_template=peer, tokenize=False)
        assert tokenizer.apply_chat_template(messages, tokenize=False) == expected


# --- the demo data -----


def test_demo_data_are_complete() -> None:
    data = builtin_data().parent
    meta = json.loads(builtin_data().read_text(encoding="utf-8"))
    named: set[str] = set()
    total = 0
    for entry in meta.values():
        for row in rows_of(data / entry["file_name"]):
            total += 1
            media = [*row.get("images", []), *row.get("videos", [])]
            messages = row.get("messages", [])
            texts = "".join(m["content"] for m in messages if isinstance(m["content"], str))
            assert texts.count("<image>") == len(row.get("images", []))
            assert texts.count("<video>") == len(row.get("videos", []))
            parts = [part for m in messages if not isinstance(m["content"], str) for part in m["content"]]
            media += [part[part["type"]] for part in parts if part["type"] != "text"]
            assert all((data / name).is_file() for name in media), media
            named.update(media)
            turns = row.get("conversations", [])
            for call in (turn["value"] for turn in turns if turn["from"] == "function_call"):
                tools = {tool["function"]["name"] for tool in json.loads(row["tools"])}
                assert json.loads(call)["name"] in tools
    assert total == 40
    found = (path for path in data.glob("*/*") if path.suffix in {".jpg", ".mp4"})
    present = {path.relative_to(data).as_posix() for path in found}
    assert named == present
    licences = (data / "LICENSES.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in licences for name in present)


def test_one_photo_is_stored_sideways() -> None:
    with Image.open(builtin_data().parent / "photos" / "coffee.jpg") as picture:
        assert picture.size == (400, 600)
        assert picture.getexif()[0x0112] == 6
        assert ImageOps.exif_transpose(picture).size == (600, 400)


def test_clip_opens() -> None:
    av = pytest.importorskip("av")
    with av.open(str(builtin_data().parent / "clips" / "ball.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 10)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 40
    assert frames[0].shape == (168, 224, 3)
    # Red on the left at the start, blue on the left at the end.
    assert frames[0][114, 26].argmax() == 0
    assert frames[-1][114, 26].argmax() == 2
