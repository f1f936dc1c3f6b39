"""One row of a store for a terminal: its place, what it is made of, its media, its text and what of it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from vlm_prep.core.visible import visible
from vlm_prep.report.found_rows import Found
from vlm_prep.report.labels_text import coloured, runs_json, runs_of_row
from vlm_prep.report.token_runs import IGNORE, media_name
from vlm_prep.report.view.shown_rows import Reader, messages_of
from vlm_prep.shards.row_texts import kept_text_of, media_of, must_have_labels
from vlm_prep.shards.schema import BESIDE

_SHOWN_APART = {"sample_id", "dataset", "source", "line", "input_ids", "labels", "media", "conversation", *BESIDE}
_MOST_NUMBERS = 48
"""Of a tensor that are written out."""


def facts_of(found: Found) -> dict[str, Any]:
    """Return what is known of a row beside its text, JSON-ready."""
    row = found.row
    facts: dict[str, Any] = {"sample_id": row["sample_id"], **found.where}
    facts |= {name: row[name] for name in ("dataset", "source", "line") if row.get(name)}
    facts |= {name: kept_text_of(row, name) for name in BESIDE if row.get(name)}
    if "input_ids" in row:
        must_have_labels(row)
        labels = np.asarray(row["labels"])
        facts |= {"tokens": len(row["input_ids"]), "trained": int((labels != IGNORE).sum())}
    for name, value in row.items():
        if name not in _SHOWN_APART and isinstance(value, np.ndarray) and value.size:
            facts[name] = value.tolist() if value.size <= _MOST_NUMBERS else f"{value.dtype} {list(value.shape)}"
    facts["media"] = [_media(each) for each in _media_of(row)]
    return facts


def _media_of(row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the media of a row as structs; of an ingested row those that its JSON text says."""
    return media_of(row) if isinstance(row["media"], str) else row["media"]


def _media(struct: Mapping[str, Any]) -> dict[str, Any]:
    if "uris" in struct:  # of an ingested row
        header = {name: value for name, value in (struct.get("header") or {}).items() if value and name != "digests"}
        return {"kind": struct["kind"], "files": struct["uris"], **header}
    found: dict[str, Any] = {"kind": struct["kind"], "name": media_name(struct)}
    found["files"] = [str(file["uri"]) for file in struct["files"]]
    stored = sum(len(file["bytes"]) for file in struct["files"] if file["bytes"] is not None)
    found |= {"stored_bytes": stored} if stored else {}
    for name in ("height", "width", "frame_list", "frame_indices", "fps", "total_frames", "samples", "sampling_rate"):
        value = struct.get(name)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if value:
            found[name] = value
    for name in ("segment", "times", "decoder", "scaled"):
        value = struct.get(name)
        if value is not None:
            found[name] = value if isinstance(value, str | bool) else np.asarray(value).tolist()
    if struct.get("tensors"):
        found["tensors"] = {str(each["name"]): list(map(int, each["shape"])) for each in struct["tensors"]}
    return found


def text_of(found: Found, reader: Reader, *, colour: bool) -> Iterator[str]:
    """Yield the row's text: as the model reads it where there is a tokenizer, else the stored conversation."""
    row = found.row
    if reader.tokenizer is not None and "input_ids" in row:
        yield coloured(runs_of_row(row, reader.tokenizer, reader.media_ids), colour=colour)
    elif row.get("conversation"):
        for message in messages_of(row):
            yield f"{visible(message['role'])}: {visible(message['text'], lines=True)}"
    else:
        yield "(its text needs a tokenizer: give --processor)"


def render(found: Found, reader: Reader, *, colour: bool) -> Iterator[str]:
    """Yield the lines that say everything known of a row, safe for a terminal."""
    facts = facts_of(found)
    for name, value in facts.items():
        if name != "media":
            yield visible(f"{name:<18} {_said(value)}")
    for number, media in enumerate(facts["media"]):
        yield visible(f"{f'media {number}':<18} {', '.join(f'{name} {_said(value)}' for name, value in media.items())}")
    yield ""
    yield from text_of(found, reader, colour=colour)


def to_json(found: Found, reader: Reader) -> dict[str, Any]:
    """Return the same as JSON-ready data."""
    facts = facts_of(found)
    if reader.tokenizer is not None and "input_ids" in found.row:
        facts["runs"] = runs_json(runs_of_row(found.row, reader.tokenizer, reader.media_ids))
    elif found.row.get("conversation"):
        facts["messages"] = messages_of(found.row)
    return facts


def _said(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
