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

ENDINGS = {"image": "png", "video": "mp4"}


def references(kind: str, name: str) -> list[dict[str, Any]]:
    """Parts that say themselves which file they are."""
    of_pictures: list[dict[str, Any]] = [{"type": "picture", "picture": name}, {"img": name}]
    return [
        *(of_pictures if kind == "image" else []),
        {"type": kind, kind: name},
        {"type": kind, "path": name},
        {"type": kind, "file_name": name},
        {kind: name},
        {"type": f"{kind}_url", f"{kind}_url": {"url": name}},
        {"type": kind, "source": {"type": "url", "url": name}},
    ]


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
    kinds = {kind for turn in meaning["turns"] for kind in turn["media"]}
    styles = ["column", "column", "paths", "refs", *(["image_tag"] if kinds == {"video"} else []), "named", "spelt"]
    if draw(st.integers(0, 7)) == 0:
        return draw(in_parts(meaning))
    style, messages = pick(*styles), []
    named: dict[str, str] = {}

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
            name = f"{kind}{sum(map(len, files.values()))}.{ENDINGS[kind]}"
            names.append((kind, name))
            files[kind].append(pick(name, {"path": name}, {"path": name, "bytes": None}, {"filename": name}))
        ask = {"type": "text", "text": turn["ask"]}
        if style == "refs":
            content = [pick(*references(kind, name)) for kind, name in names] + [ask]
        elif style == "paths":
            tags = [(pick("img", "image") if kind == "image" else kind, name) for kind, name in names]
            content = "".join(f"<{tag}>{name}</{tag}>" for tag, name in tags) + turn["ask"]
        elif style == "image_tag":
            content = "<image>" * len(names) + turn["ask"]
        elif style == "spelt":
            before = {kind: len(files[kind]) - sum(each == kind for each, _ in names) for kind in files}
            numbered: list[str] = []
            for kind, _ in names:
                before[kind] += 1
                numbered.append(
                    pick(f"<{kind}_{before[kind]}>", f"<{kind} {before[kind]}>", f"<|{kind}_{before[kind]}|>")
                )
            content = "".join(numbered) + turn["ask"]
            content = pick(content, [{"type": "text", "text": content}]) if structured else content
        elif style == "named":
            content = turn["ask"]
            for kind, name in reversed(names):
                tag = f"<image_{len(named)}>" if kind == "image" else "<video>"
                named |= {tag: name} if kind == "image" else {}
                content = tag + content
        elif structured and draw(st.booleans()):
            content = [{"type": kind} for kind, _ in names] + [ask]
        else:
            content = "".join(pick(f"<{kind}>", f"<{kind.upper()}>") for kind, _ in names) + turn["ask"]
            content = pick(content, [{"type": "text", "text": content}]) if structured else content
        message("user", content)
        trained = {} if turn["train"] is None else {
            pick("train", "training", "train_on_turn", "loss"): turn["train"]
        } if draw(st.booleans()) else {pick("loss_mask", "weight", "loss_scale"): int(turn["train"])}  # fmt: skip
        message("assistant", text(turn["say"]), **trained)
    contents = [each[content_key] for each in messages]
    if all(isinstance(each, list) and all(map(is_typed, each)) for each in contents) and draw(st.booleans()):
        for each in messages:
            each |= {key: json.dumps(each[key]) for key in ("content", "value") if each.get(key) is not None}
    row: dict[str, Any] = {pick("messages", "conversations"): messages}
    if style == "paths" or (style == "refs" and draw(st.booleans())):
        files = {"image": [], "video": []}
    for kind, entries in files.items():
        name = pick(*NAMES[kind])
        if style == "named" and kind == "image" and entries:
            row[name] = named
            continue
        if not entries:
            row |= pick({}, {name: None}, {name: []}, {name: ""}, {name: [None]})
            continue
        shapes = [entries, [*entries, None], json.dumps(entries)]
        shapes += [entries[0]] if len(entries) == 1 else []
        shapes += [[entries]] if kind == "image" else []
        row[name] = pick(*shapes)
        if draw(st.booleans()) and name != NAMES[kind][0]:
            row[NAMES[kind][0]] = entries
    if meaning["system"] is not None and system_column:
        row[pick("system", "system_prompt")] = pick(meaning["system"], [{"type": "text", "text": meaning["system"]}])
    return row


def is_typed(part: Any) -> bool:
    return isinstance(part, dict) and "type" in part


@st.composite
def in_parts(draw: st.DrawFn, meaning: dict[str, Any]) -> dict[str, Any]:
    """The same in Gemini's form."""
    contents: list[Any] = []
    place = 0
    for turn in meaning["turns"]:
        parts: list[Any] = []
        for kind in turn["media"]:
            file = {"mimeType": f"{kind}/{ENDINGS[kind]}", "fileUri": f"{kind}{place}.{ENDINGS[kind]}"}
            parts.append({draw(st.sampled_from(["fileData", "file_data"])): file})
            place += 1
        train = {} if turn["train"] is None else {"train": turn["train"]}
        contents += [
            {"role": "user", "parts": [*parts, {"text": turn["ask"]}]},
            {"role": "model", "parts": [{"text": turn["say"]}], **train},
        ]
    system = {} if meaning["system"] is None else {"systemInstruction": {"parts": [{"text": meaning["system"]}]}}
    return {"contents": contents, **system}


def plain(meaning: dict[str, Any]) -> tuple[list[Any], list[str]]:
    messages: list[Any] = []
    uris: list[str] = []
    if meaning["system"] is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": meaning["system"]}]})
    for turn in meaning["turns"]:
        uris += [f"{kind}{len(uris) + place}.{ENDINGS[kind]}" for place, kind in enumerate(turn["media"])]
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
