"""A conversation in any of its spellings is one conversation: rows are made at random and must all read the same."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_prep.core.records import Sample
from vlm_prep.ingest.source import open_samples

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>"), min_size=1, max_size=12).filter(
    str.strip
)
ROLES = {"user": ("user", "human", "User", "HUMAN"), "assistant": ("assistant", "gpt", "GPT", "bot", "model")}
NAMES = {"image": ("image", "images", "image_path", "img"), "video": ("video", "videos", "video_path")}


@st.composite
def meanings(draw: st.DrawFn) -> dict[str, Any]:
    """What a row means: turns of texts, media by turn, and whether answers are trained."""
    turns = [
        {
            "ask": draw(WORDS),
            "media": draw(st.lists(st.sampled_from(["image", "video"]), max_size=2)),
            "say": draw(WORDS),
            "train": draw(st.sampled_from([None, True, False])),
        }
        for _ in range(draw(st.integers(1, 3)))
    ]
    return {"turns": turns, "system": draw(st.none() | WORDS)}


@st.composite
def spelt(draw: st.DrawFn, meaning: dict[str, Any]) -> dict[str, Any]:
    """A row that says it, in words of one tool or another."""

    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    structured, system_column = draw(st.booleans()), draw(st.booleans())
    role_key, content_key = pick(("role", "content"), ("from", "value"), ("from", "content"))
    files: dict[str, list[Any]] = {"image": [], "video": []}
    messages = []

    def message(role: str, content: Any, **options: Any) -> None:
        made = {role_key: pick(*ROLES.get(role, (role,))), content_key: content, **options}
        if draw(st.booleans()):
            made |= {"content" if content_key == "value" else "value": pick(None, content)}
        messages.append(made)

    def text(words: str) -> Any:
        part = pick(
            {"type": "text", "text": words}, {"text": words}, words, {"type": "text", "text": words, "image": None}
        )
        return pick(words, [part], part if isinstance(part, dict) else [part]) if structured else words

    if meaning["system"] is not None and not system_column:
        message("system", text(meaning["system"]))
    for turn in meaning["turns"]:
        names = []
        for kind in turn["media"]:
            names.append((kind, f"{kind}{sum(map(len, files.values()))}"))
            files[kind].append(pick(names[-1][1], {"path": names[-1][1]}, {"path": names[-1][1], "bytes": None}))
        if structured and draw(st.booleans()):
            content = [{"type": kind} for kind, _ in names] + [{"type": "text", "text": turn["ask"]}]
        else:
            content = "".join(pick(f"<{kind}>", f"<{kind.upper()}>") for kind, _ in names) + turn["ask"]
        message("user", content)
        trained = {} if turn["train"] is None else {
            pick("train", "training", "train_on_turn", "loss"): turn["train"]
        } if draw(st.booleans()) else {pick("loss_mask", "weight", "loss_scale"): int(turn["train"])}  # fmt: skip
        message("assistant", text(turn["say"]), **trained)
    row: dict[str, Any] = {pick("messages", "conversations"): messages}
    for kind, entries in files.items():
        name = pick(*NAMES[kind])
        if not entries:
            row |= pick({}, {name: None}, {name: []}, {name: ""}, {name: [None]})
            continue
        shapes = [entries, [*entries, None]]
        shapes += [entries[0]] if len(entries) == 1 else []
        shapes += [[entries]] if kind == "image" else []
        row[name] = pick(*shapes)
        if draw(st.booleans()) and name != NAMES[kind][0]:
            row[NAMES[kind][0]] = entries
    if meaning["system"] is not None and system_column:
        row[pick("system", "system_prompt")] = meaning["system"]
    return row


def plain(meaning: dict[str, Any]) -> tuple[list[Any], list[str]]:
    messages: list[Any] = []
    uris: list[str] = []
    if meaning["system"] is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": meaning["system"]}]})
    for turn in meaning["turns"]:
        uris += [f"{kind}{len(uris) + place}" for place, kind in enumerate(turn["media"])]
        parts = [{"type": kind} for kind in turn["media"]] + [{"type": "text", "text": turn["ask"]}]
        train = {} if turn["train"] is None else {"train": turn["train"]}
        messages += [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": turn["say"]}], **train},
        ]
    return messages, uris


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_rows_in_all_spellings_of_one_meaning_are_one_sample(data: st.DataObject) -> None:
    meaning = data.draw(meanings())
    rows = [data.draw(spelt(meaning)) for _ in range(4)]
    form = data.draw(st.sampled_from(["lines", "array", "objects", "keyed", "utf-16"]))
    messages, uris = plain(meaning)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_bytes(written(rows, form))
        samples = open_samples(path)
        for row, sample in zip(rows, samples.read(0, len(rows)), strict=True):
            assert isinstance(sample, Sample), (row, sample)
            assert sample.messages == messages, row
            assert [Path(media.uris[0]).name for media in sample.media] == uris, row


def written(rows: list[Any], form: str) -> bytes:
    if form == "array":
        return json.dumps(rows).encode()
    if form == "keyed":
        return json.dumps({f"row {n}": row for n, row in enumerate(rows)}, indent=1).encode()
    if form == "objects":
        return "\n".join(json.dumps(row, indent=1) for row in rows).encode()
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return text.encode("utf-16" if form == "utf-16" else "utf-8")
