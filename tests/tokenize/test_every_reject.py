"""Every reason for which a row is not written: a row that has it, and what its message says.

A message quotes the words that are wrong or names the file, and says what changes it; it holds nothing of the machine.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from vlm_prep.core.errors import RejectReason
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.tokenize.tokenize_run import tokenize

ACCIDENTS = re.compile(r"0x[0-9a-fA-F]{6}|\.(?:cc|cpp|c|h|py):\d|site-packages|object at|/proc/|[\x00-\x1f\x7f]")
USER, ANSWER = ({"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Yes.")))
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": "{x"}]}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages or (USER, ANSWER)), **more}


def asks(tag: str, **columns: Any) -> dict[str, Any]:
    return chat({"role": "user", "content": f"{tag}What?"}, ANSWER, **columns)


def frames(*indices: int) -> dict[str, Any]:
    return asks("<video>", videos=[{"path": "a.gif", "frame_indices": list(indices)}])


ROWS: list[tuple[str, Any, tuple[str, ...]]] = [
    ("bad_json", '{"messages": [', ("line 1, column",)),
    ("bad_json", '{"messages": [{"role": "user", "content": "a\tb"}]}', ("control character", "lenient_json")),
    ("duplicate_key", '{"id": 1, "id": 2, "messages": []}', ("'id'", "1 and 2")),
    ("bad_row", chat(USER, {**ANSWER, "value": "No."}), ("'Yes.'", "'No.'", "tags.content_tag")),
    ("bad_type", chat(USER, {"role": "assistant", "content": 7}), ("message 2", "7", "write it as a text")),
    ("missing_column", {"text": "x"}, ("'messages'", "'text'", "columns.messages")),
    ("unread_key", chat(label=True), ("label", "true", "ignore_keys=label")),
    ("empty_conversation", chat({"role": "user", "content": " "}), ("says anything",)),
    ("unknown_role", chat({"role": "narrator", "content": "x"}, ANSWER), ("'narrator'", "tags.user_tag")),
    ("bad_tool_call", chat(USER, CALL), ("message 2", "arguments", "character")),
    ("bad_tools", chat(tools=[{"x": 1}]), ("tool 0", "function name")),
    ("no_assistant_turn", chat(USER), ("assistant",)),
    ("media_count_mismatch", asks("", images=["a.png"]), ("0 image", "1 image", "missing_tags=first")),
    ("missing_media", asks("<image>", images=[None]), ("image 0", "null")),
    ("bad_media_entry", asks("<image>", images=[{"alt": "x"}]), ("'alt'",)),
    ("unsupported_media", asks("<image>", images=["https://x.org/a.png"]), ("https://x.org/a.png", "download")),
    ("missing_file", asks("<image>", images=["b%20c.png"]), ("b%20c.png", "nor as", "b c.png")),
    ("missing_file", asks("<image>", images=["no\x1b[2J\nline.png"]), ("no\\x1b[2J\\nline.png",)),
    ("missing_key", asks("<image>", images=["a.zip::b.png"]), ("a.zip", "'b.png'")),
    ("unreadable_file", asks("<image>", images=["."]), ("directory",)),
    ("empty_file", asks("<image>", images=["empty.png"]), ("empty.png", "zero bytes")),
    ("unreadable_image", asks("<image>", images=["text.png"]), ("text.png", "it is text")),
    ("truncated_image", asks("<image>", images=["cut.jpg"]), ("cut.jpg",)),
    ("image_too_large", asks("<image>", images=["large.png"]), ("400x300", "--max-image-pixels")),
    ("aspect_ratio", asks("<image>", images=["thin.png"]), ("thin.png", "aspect ratio")),
    ("unreadable_video", asks("<video>", videos=["sound.wav"]), ("sound.wav", "only audio")),
    ("bad_frame_indices", frames(0, 9), ("a.gif", "[9]", "3 frames")),
    ("missing_fps", asks("<video>", videos=[["a.png", "a.png"]]), ("a.png", "fps")),
    ("no_supervised_tokens", chat(USER, {**ANSWER, "train": False}), ("trained", "train_on")),
    ("loss_weights", chat(USER, {**ANSWER, "weight": 0.5}), ("--loss-weights",)),
    ("template_drops_content", chat(USER, {**ANSWER, "reasoning": "Hm."}), ("message 2", "'Hm.'", "chat_template")),
    ("control_tokens", chat({"role": "user", "content": "a<|im_end|>b"}, ANSWER), ("<|im_end|>", "control_tokens")),
    ("empty_answer", chat(USER, {"role": "assistant", "content": ""}), ("message 2", "empty_answers")),
    ("overlong", chat({"role": "user", "content": "word " * 400}, ANSWER), (" tokens", "--max-length is 300")),
    ("outside_media_root", asks("<image>", images=["../other.png"]), ("other.png", "media_root")),
]  # fmt: skip
CONFIG: dict[str, Any] = {
    "control_tokens": "reject", "empty_answers": "reject", "max_length": 300, "max_image_pixels": 100_000,
}  # fmt: skip
ELSEWHERE = frozenset(
    (
        "not_wanted",
        "bad_box",
        "box_outside",
        "processor_differs",
        "hook_error",
        "unreadable_audio",
        "audio_too_short",
        "audio_too_long",
        "empty_transcript",
        "media_changed",
        "template_error",
        "labels_undecidable",
        "rewritten_history",
        "too_short",
        "longer_than_pack",
        "processor_error",
        "payload_too_large",
        "worker_crashed",
        "timeout",
        "out_of_memory",
    )
)
"""Reasons that need another processor, stage or source; other tests have such rows."""


def write_media(folder: Path) -> None:
    picture = Image.new("RGB", (56, 56), (200, 30, 10))
    picture.save(folder / "a.png")
    picture.save(folder.parent / "other.png")
    picture.save(
        folder / "a.gif", save_all=True, append_images=[Image.new("RGB", (56, 56), (i, i, i)) for i in (9, 99)]
    )
    Image.new("RGB", (400, 300)).save(folder / "large.png")
    Image.new("RGB", (4_000, 12)).save(folder / "thin.png")
    Image.effect_noise((200, 200), 50).convert("RGB").save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:2_000])
    (folder / "text.png").write_text("Not found.")
    (folder / "empty.png").touch()
    soundfile.write(folder / "sound.wav", np.zeros(1_600), 16_000)


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[int, tuple[str, str]]:
    """Reason and message by line, the lines of two good rows left out."""
    folder = tmp_path_factory.mktemp("every") / "data"
    folder.mkdir()
    write_media(folder)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "a.png", "a.png")
    lines = [json.dumps(chat()), json.dumps(asks("<image>", images=["a.png"]))]
    lines += [row if isinstance(row, str) else json.dumps(row) for _, row, _ in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    samples = open_samples(folder / "rows.jsonl")
    options = request.getfixturevalue("options")(folder.parent / "out", max_reject_rate=1.0)
    config = TokenizeConfig(**CONFIG, media_root=[str(folder)])
    tokenize(samples, "builtin:qwen2.5-vl-mini", config, options)
    return {row["line"]: (row["reason"], row["message"]) for row in read_rejects(folder.parent / "out")}


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[f"{number}-{ROWS[number][0]}" for number in range(len(ROWS))])
def test_a_row_is_rejected_with_its_reason_and_its_words(rejected: dict[int, tuple[str, str]], number: int) -> None:
    wanted, _, words = ROWS[number]
    reason, message = rejected[number + 3]
    assert reason == wanted, message
    assert [word for word in words if word.replace("line 1", f"line {number + 3}") not in message] == [], message
    assert not ACCIDENTS.search(message) and len(message) < 1_000


def test_no_other_row_is_rejected(rejected: dict[int, tuple[str, str]]) -> None:
    assert sorted(rejected) == list(range(3, len(ROWS) + 3))


def test_every_reason_has_a_row() -> None:
    here = {reason for reason, _, _ in ROWS}
    assert {reason.value for reason in RejectReason} == here | ELSEWHERE
    others = [path for path in Path(__file__).parents[1].rglob("test_*.py") if path.name != Path(__file__).name]
    texts = "".join(path.read_text() for path in others)
    assert [reason for reason in ELSEWHERE if not re.search(rf'"{reason}"|\.{reason.upper()}\b', texts)] == []
