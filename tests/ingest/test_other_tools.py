"""Rows as tools of other makers write them: what each part of them means, with one meaning alone."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_prep.core.records import Rejected, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.decode import load_media
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

ANSWER = {"role": "assistant", "content": "x"}


def the_row(tmp_path: Path, row: Any) -> Sample | Rejected:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (read,) = open_samples(tmp_path / "rows.jsonl").read(0, 1)
    return read


def said(row: Any, tmp_path: Path, user: int) -> tuple[Any, list[str], tuple[str, ...]]:
    """Content of the user's turn, names of the media, notes."""
    sample = the_row(tmp_path, row)
    assert isinstance(sample, Sample), sample
    assert sample.messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": "x"}]}
    return sample.messages[user]["content"], [Path(media.uris[0]).name for media in sample.media], sample.notes


def asks(content: Any, **columns: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, ANSWER], **columns}


IMAGE, VIDEO, AUDIO = ({"type": kind} for kind in ("image", "video", "audio"))


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("row", "content", "media", "note"),
    [
        (asks("1: <img>a b.png</img>\nWhat?"), [text("1: "), IMAGE, text("\nWhat?")], ["a b.png"], "read_path_in_tags"),
        (asks("<audio>s.wav</audio>What?"), [AUDIO, text("What?")], ["s.wav"], "read_path_in_tags"),
        (asks("<VIDEO> v.mp4 </video>"), [VIDEO], ["v.mp4"], "read_path_in_tags"),
        (asks("<image>\nWhat?", video="v.mp4"), [VIDEO, text("\nWhat?")], ["v.mp4"], "read_video_as_image"),
        (asks([text("<image>What?")], images=["a.png"]), [IMAGE, text("What?")], ["a.png"], "read_part_tags"),
        (
            asks("<image_01> or <image_00>?", image={"<image_00>": "a.png", "<image_01>": "b.png"}),
            [IMAGE, text(" or "), IMAGE, text("?")],
            ["b.png", "a.png"],
            "read_named_tags",
        ),
    ],
)
def test_tags_of_other_tools_are_read_where_they_can_mean_one_thing(
    tmp_path: Path, row: Any, content: Any, media: list[str], note: str
) -> None:
    assert said(row, tmp_path, 0) == (content, media, (note,))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (asks("<image>What?", video=["f1.jpg", "f2.jpg"]), "1 image placeholder(s) for 0 image(s)"),
        (asks("<image>What?", video=["f1.jpg"]), "0 video placeholder(s) for 1 video(s)"),
        (asks([text("<image>What?")], images=["a.png", "b.png"]), "1 more in texts of typed parts stay text"),
        (asks("<image_00>?", image={"<image_00>": "a.png", "<image_01>": "b.png"}), "gives media for '<image_01>'"),
    ],
)
def test_tags_that_fit_no_reading_are_refused_with_their_counts(tmp_path: Path, row: Any, words: str) -> None:
    reject = the_row(tmp_path, row)
    assert isinstance(reject, Rejected)
    assert reject.reason == "media_count_mismatch" and words in reject.message


@pytest.mark.parametrize("words", ["Write <img>some text</img> in HTML.", "Is </img> a tag?", "<b>a.png</b>"])
def test_tags_around_what_is_no_file_are_text(tmp_path: Path, words: str) -> None:
    assert said(asks(words), tmp_path, 0) == ([text(words)], [], ())


def test_blocks_of_anthropic_are_parts(tmp_path: Path, options: Any) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (56, 84), (200, 30, 10)).save(picture, "PNG")
    (tmp_path / "a.png").write_bytes(picture.getvalue())
    data = base64.b64encode(picture.getvalue()).decode()
    inside = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    rows = [
        {"system": [text("Be brief.")], **asks([part, text("What?")])}
        for part in (inside, {"type": "image", "source": {"type": "url", "url": "a.png"}}, {"image": "a.png"})
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenize(
        open_samples(tmp_path / "rows.jsonl"), "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "o")
    )
    store = Store(tmp_path / "o", stage="tokenize")
    first, *others = (store.row(number) for number in range(len(store)))
    assert len(others) == 2
    for other in others:
        assert other["input_ids"].tolist() == first["input_ids"].tolist()
        assert load_media(other["media"][0]).tobytes() == load_media(first["media"][0]).tobytes()


@pytest.mark.parametrize("key", ["arguments", "parameters", "input"])
def test_arguments_of_calls_go_by_the_names_of_other_makers(tmp_path: Path, key: str) -> None:
    calls: Any = [{"name": "look", key: {"x": 1}}]
    for written in (calls, json.dumps(calls)):
        call = {"role": "assistant", "content": "", "tool_calls": written}
        sample = the_row(tmp_path, {"messages": [{"role": "user", "content": "?"}, call, ANSWER]})
        assert isinstance(sample, Sample)
        assert sample.messages[1]["tool_calls"] == [
            {"type": "function", "function": {"name": "look", "arguments": {"x": 1}}}
        ]
