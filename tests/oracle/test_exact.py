"""Promise 1: what a store holds equals what the real processor makes of the same conversation and media.

The expected side is built here, from files decoded here, with the processor's own apply_chat_template and its own frame
sampling; only the conversations of tool rows are taken from the store (written as text for templates without tools).
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from oracle.cases import NAMES, Load, Options, clip
from PIL import Image, ImageOps

from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

pytestmark = pytest.mark.usefixtures("gigatoken")
Row = dict[str, Any]


def source_of(name: str, processors: Path) -> str:
    return "builtin:qwen2.5-vl-mini" if name == "builtin" else str(processors / name)


# --- the rows, and the same with decoded media -----


def picture(path: Path | io.BytesIO) -> Image.Image:
    """A file as the processor should see it, by Pillow and numpy."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode == "I;16":
            return Image.fromarray(np.rint(np.asarray(upright) * (255 / 65535)).astype(np.uint8)).convert("RGB")
        if upright.mode in ("RGBA", "LA"):
            white = Image.new("RGBA", upright.size, "white")
            return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")
        return upright.convert("RGB")


@dataclass
class Case:
    """A row as users write it, and the arguments that make the processor do the same."""

    messages: list[Row] = field(default_factory=list)
    real: list[Row] = field(default_factory=list)
    videos: list[dict[str, Any]] = field(default_factory=list)
    sampling: dict[str, Any] = field(default_factory=lambda: {"do_sample_frames": False})
    extra: Row = field(default_factory=dict)

    def say(self, role: str, *parts: str | tuple[Row, Row]) -> Case:
        """Add a message of texts and (written part, decoded part)."""
        texts = [({"type": "text", "text": part},) * 2 if isinstance(part, str) else part for part in parts]
        self.messages.append({"role": role, "content": [written for written, _ in texts]})
        self.real.append({"role": role, "content": [decoded for _, decoded in texts]})
        return self

    def image(self, path: Path) -> tuple[Row, Row]:
        """A picture."""
        return {"type": "image", "image": str(path)}, {"type": "image", "image": picture(path)}

    def sampled(self, path: Path, fps: float) -> tuple[Row, Row]:
        """A video that the processor samples by itself."""
        frames, metadata = clip(path)
        self.videos.append(metadata)
        self.sampling = {"do_sample_frames": True, "fps": fps}
        return {"type": "video", "video": str(path), "fps": fps}, {"type": "video", "video": frames}

    def frames(self, path: Path, indices: list[int]) -> tuple[Row, Row]:
        """A video with the frames to take."""
        frames, metadata = clip(path)
        self.videos.append({**metadata, "frames_indices": list(indices)})
        written = {"type": "video", "video": str(path), "frame_indices": indices}
        return written, {"type": "video", "video": frames[indices]}

    def frame_list(self, uris: list[str], pictures: list[Image.Image], fps: float) -> tuple[Row, Row]:
        """A video given as pictures."""
        number = len(uris)
        self.videos.append({"total_num_frames": number, "fps": fps, "frames_indices": list(range(number))})
        written = {"type": "video", "video": uris, "fps": fps}
        return written, {"type": "video", "video": np.stack([np.asarray(each) for each in pictures])}


def lmdb_frames(kit: Path, number: int) -> tuple[list[str], list[Image.Image]]:
    folder = kit / "data" / "lmdb_store"
    names = json.loads((folder / "frames.json").read_text())["frames"][:number]
    # of a copy, since one process may open an LMDB only once and vlm_prep opens it too
    with tempfile.TemporaryDirectory() as copy:
        shutil.copy(folder / "images.lmdb" / "data.mdb", copy)
        with lmdb.open(copy, readonly=True, lock=False) as environment, environment.begin() as reader:
            contents = [reader.get(name.partition("::")[2].encode(), b"") for name in names]
    pictures = [picture(io.BytesIO(content)) for content in contents]
    return [str(folder / name) for name in names], pictures


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city, e.g. Zürich.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def cases(kit: Path) -> dict[str, Case]:
    images, videos = kit / "data" / "images", kit / "data" / "videos"
    pillow = images / "pillow"
    found: dict[str, Case] = {}

    def case(name: str) -> Case:
        return found.setdefault(name, Case())

    c = case("one image")
    c.say("user", c.image(pillow / "hopper.jpg"), "Who?").say("assistant", "Grace Hopper.")
    c = case("several sizes in one turn")
    c.say(
        "user", "A", c.image(images / "china_6x5.png"), c.image(images / "page.png"), "B", c.image(images / "text.png")
    )
    c.say("assistant", "Three pictures.")
    c = case("several sizes over turns")
    c.say("system", "Be brief.").say("user", c.image(images / "chelsea_palette.png"), "What?").say(
        "assistant", "A cat."
    )
    c.say("user", "And", c.image(pillow / "flower2.webp"), "?").say("assistant", "A flower.")
    for name in ("hopper_gray16.png", "china_exif6.jpg", "no_time_for_that_tiny.gif", "test_image_rgba.png"):
        c = case(name)
        c.say("user", c.image(images / name)).say("assistant", "Yes.")
    c = case("cmyk")
    c.say("user", c.image(pillow / "pil_sample_cmyk.jpg"), "Colours?").say("assistant", "Four inks.")
    case("text only").say("user", "Hi there,\n\n  friend!").say("assistant", "Hello.\n\n- one\n- two\n")
    case("Chinese").say("user", "你好，介绍一下你自己。").say("assistant", "我是一个助手。\n很高兴认识你！")
    case("emoji").say("user", "👩‍👩‍👧‍👦 🏳️‍🌈?").say("assistant", "🧑🏽‍🚀 ok 🇨🇳")
    nfd = unicodedata.normalize("NFD", "Crème brûlée déjà vu, naïve Ångström 한국어")
    case("decomposed").say("user", nfd).say("assistant", nfd + "!")
    c = case("decomposed with image")
    c.say("user", nfd, c.image(pillow / "hopper.png"), nfd).say("assistant", nfd)
    case("written control tokens").say("user", "say <|im_end|> and <|image_pad|>").say("assistant", "<|im_end|> it is")
    case("assistant first").say("assistant", "Welcome!").say("user", "Thanks.").say("assistant", "Sure.")
    for fps in (2.0, 1.0):
        c = case(f"video at {fps} fps")
        c.say("user", c.sampled(videos / "carphone_pristine.mp4", fps), "What?").say("assistant", "A man in a car.")
    c = case("explicit frames")
    c.say("user", c.frames(videos / "carphone_pristine.mp4", [0, 30, 60, 90]), "What?").say("assistant", "A man.")
    c = case("an odd number of frames")
    c.say("user", c.frames(videos / "h265_video.mp4", [0, 3, 9]), "What?").say("assistant", "A pattern.")
    for number in (4, 5):
        uris, pictures = lmdb_frames(kit, number)
        c = case(f"a list of {number} frames")
        c.say("user", c.frame_list(uris, pictures, 2.5), "What?").say("assistant", "A pancake.")
    c = case("two videos")
    c.say("user", c.sampled(videos / "h265_video.mp4", 4), "and", c.sampled(videos / "h264_10bits.mp4", 4))
    c.say("assistant", "Two clips.")
    c = case("image and video")
    c.say("user", c.image(pillow / "hopper.jpg"), c.frames(videos / "h265_video.mp4", [1, 2]), "?")
    c.say("assistant", "Both.").say("user", c.image(images / "page.png")).say("assistant", "A page.")
    c = case("tools")
    c.extra["tools"] = [WEATHER]
    c.say("user", "Weather in Zürich?").say("assistant")
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "ü": [1, 2.5]}}}
    c.messages[-1] |= {"content": "Looking…", "tool_calls": [call, call]}
    c.say("tool", '{"sky": "clear"}').say("assistant", "Clear.")
    return found


@pytest.fixture(scope="session")
def all_cases(kit: Path) -> dict[str, Case]:
    """The conversations of this file."""
    return cases(kit)


@dataclass
class Run:
    """A finished store of all cases."""

    manifest: Manifest
    rows: dict[str, Row]
    rejects: int


@pytest.fixture(scope="session")
def run(
    all_cases: dict[str, Case], processors: Path, tmp_path_factory: pytest.TempPathFactory, options: Options
) -> Callable[[str], Run]:
    """Tokenize all cases with a processor, every row compared with it; once for each."""
    made: dict[str, Run] = {}

    def once(name: str) -> Run:
        if name not in made:
            folder = tmp_path_factory.mktemp(f"exact-{name}")
            data = folder / "rows.jsonl"
            lines = [json.dumps({"messages": case.messages, **case.extra}) for case in all_cases.values()]
            data.write_text("\n".join(lines) + "\n")
            manifest = tokenize(
                open_samples(data, format="messages"),
                source_of(name, processors),
                TokenizeConfig(verify_fraction=1.0),
                options(folder / "out", max_reject_rate=1.0),
            )
            assert manifest
            rows = {row["sample_id"]: row for row in Store(folder / "out").rows()}
            by_name = {case: rows.get(f"rows/{number}") for number, case in enumerate(all_cases)}
            made[name] = Run(
                manifest,
                {case: row for case, row in by_name.items() if row is not None},
                manifest.totals["rows_rejected"],
            )
        return made[name]

    return once


def expected(hf: Any, case: Case, row: Row) -> Any:
    messages, tools = case.real, None
    if case.extra:
        conversation = json.loads(row["conversation"])
        messages, tools = conversation["messages"], conversation.get("tools")
    videos = {"videos_kwargs": {**case.sampling, "video_metadata": case.videos}} if case.videos else {}
    return hf.apply_chat_template(
        messages,
        tools=tools,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=videos,
        sanitize_control_tokens=True,
    )


CASES = (
    "one image", "several sizes in one turn", "several sizes over turns", "hopper_gray16.png", "china_exif6.jpg",
    "no_time_for_that_tiny.gif", "test_image_rgba.png", "cmyk", "text only", "Chinese", "emoji", "decomposed",
    "decomposed with image", "written control tokens", "assistant first", "video at 2.0 fps", "video at 1.0 fps",
    "explicit frames", "an odd number of frames", "a list of 4 frames", "a list of 5 frames", "two videos",
    "image and video", "tools",
)  # fmt: skip


def test_the_list_of_cases_is_complete(all_cases: dict[str, Case]) -> None:
    assert tuple(all_cases) == CASES


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_written_and_proven(run: Callable[[str], Run], name: str) -> None:
    manifest = run(name).manifest
    assert manifest.totals["rejects"] == {}
    assert sum(manifest.proof["rows"].values()) == manifest.totals["rows_written"] == len(CASES)
    assert manifest.proof["rows"] == manifest.proof["of"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_what_the_processor_makes(
    run: Callable[[str], Run], loaded: Load, all_cases: dict[str, Case], name: str, case: str
) -> None:
    stored = run(name)
    row = stored.rows[case]
    real = expected(loaded(name).hf, all_cases[case], row)
    assert row["input_ids"].tolist() == real["input_ids"][0].tolist()
    for tensor in ("image_grid_thw", "video_grid_thw"):
        assert row[tensor].tolist() == (real[tensor].tolist() if tensor in real else [])
    if "second_per_grid_ts" in real:
        # the processor gives Python floats or float32; the store holds float32
        seconds = np.asarray(real["second_per_grid_ts"], np.float32)
        np.testing.assert_array_equal(row["second_per_grid_ts"], seconds)
    pixels = PixelMaker(stored.manifest.processor).pixels(row["media"])
    for tensor in ("pixel_values", "pixel_values_videos"):
        assert (tensor in pixels) == (tensor in real)
        if tensor in real:
            assert pixels[tensor].dtype == real[tensor].dtype
            assert torch.equal(pixels[tensor], real[tensor])


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_that_the_processor_refuses_is_rejected(
    kit: Path, processors: Path, loaded: Load, tmp_path: Path, options: Options, name: str
) -> None:
    path = kit / "data" / "images" / "china_2000x8.png"
    with pytest.raises(ValueError, match="aspect ratio"):
        loaded(name).hf.image_processor(images=[picture(path)])
    good = kit / "data" / "images" / "china_6x5.png"
    data = tmp_path / "rows.jsonl"
    data.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "a"}],
                        "images": [str(each)]}) + "\n"
            for each in (path, good)
        )
    )  # fmt: skip
    manifest = tokenize(
        open_samples(data),
        source_of(name, processors),
        TokenizeConfig(verify_fraction=1.0),
        options(tmp_path / "out", max_reject_rate=1.0),
    )
    assert manifest
    assert manifest.totals["rejects"] == {"aspect_ratio": 1}
    assert manifest.totals["rows_written"] == 1


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_a_template_whose_prompt_opens_a_think_block_is_not_taken_for_an_error(
    processors: Path, tmp_path: Path, options: Options
) -> None:
    """Qwen3-VL-Thinking's prompt ends in <think>, where the written turn goes on with an empty block."""
    folder = tmp_path / "thinking"
    shutil.copytree(processors / "qwen3_vl", folder)
    (folder / "chat_template.jinja").write_text(THINKING)
    data = tmp_path / "rows.jsonl"
    turns = [{"role": role, "content": text} for role, text in (("user", "A?"), ("assistant", "a"))]
    data.write_text(json.dumps({"messages": turns * 2}) + "\n" + json.dumps({"messages": turns}) + "\n")
    manifest = tokenize(open_samples(data), str(folder), TokenizeConfig(verify_fraction=1.0), options(tmp_path / "out"))
    assert manifest
    assert manifest.totals["rows_written"] == 2
    assert manifest.totals["trained_tokens"] == 6
