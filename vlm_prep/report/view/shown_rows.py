"""A row as the page shows it: what the model reads in runs, what of it is trained, its media and token counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from vlm_prep.report.labels_text import runs_of_row
from vlm_prep.report.token_runs import IGNORE, Run
from vlm_prep.report.view.shown_media import shown_media
from vlm_prep.shards.row_texts import conversation_of, kept_text_of, media_of, must_have_labels
from vlm_prep.shards.schema import BESIDE, BOXES, KEPT, LOSS_WEIGHTS, RESCUE

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How ids become text; without a tokenizer the stored conversation is shown instead."""

    tokenizer: Any = None
    media_ids: Collection[int] = ()


def shown_row(row: Row, reader: Reader) -> dict[str, Any]:
    """Return a row of a tokenized store, or a document of a pack, as JSON-ready data."""
    must_have_labels(row)
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    trained = labels != IGNORE
    media = [shown_media(each) for each in row["media"]]
    for place, shape, *name in kept_text_of(row, BOXES) or ():
        if 0 <= place < len(media):  # of a talk that was cut, the pictures that were left
            media[place].setdefault("boxes", []).append({"at": shape, **({"name": name[0]} if name else {})})
    in_media = np.isin(ids, list(reader.media_ids))
    known = reader.tokenizer is not None
    found: dict[str, Any] = {
        "id": row["sample_id"],
        "dataset": row.get("dataset", ""),
        "kept": row.get(KEPT) or "",
        "rescue": _rescue(row),
        "tokens": len(ids),
        "trained": int(trained.sum()),
        "kind": "+".join(sorted({each["kind"] for each in media})) or "text",
        "media": media,
        "parts": {
            "trained": int(trained.sum()),
            **({"media": int(in_media.sum())} if known else {}),
            "other": int((~trained & ~in_media).sum()),
        },
    }
    if known:
        found["runs"] = [_shown_run(run) for run in runs_of_row(row, reader.tokenizer, reader.media_ids)]
    elif row.get("conversation"):
        found["messages"] = messages_of(row)
    return found


def _rescue(row: Row) -> str:
    """What was done to a row that was too long, in words."""
    found = kept_text_of(row, RESCUE) or {}
    steps = ", ".join(f"{name} {was:,} → {now:,}" for name, (was, now) in found.items())
    return f"rescued: {steps}" if steps else ""


def shown_sample(row: Row) -> dict[str, Any]:
    """Return a row of an ingested store, which has no tokens yet."""
    media = media_of(row)
    return {
        "id": row["sample_id"],
        "dataset": row["dataset"],
        "kept": row.get(KEPT) or "",
        "kind": "+".join(sorted({each.get("kind", "") for each in media})) or "text",
        "media": [{"kind": each.get("kind", ""), "name": (each.get("uris") or [""])[0], "note": ""} for each in media],
        "messages": messages_of(row),
    }


def documents_of(pack: Row) -> Iterator[dict[str, Any]]:
    """Yield the documents of a pack as rows."""
    starts = np.cumsum([0, *pack["seq_lens"]])
    first = np.cumsum([0, *pack["media_counts"]])
    for number, name in enumerate(pack["sample_ids"]):
        tokens = slice(int(starts[number]), int(starts[number + 1]))
        columns = [each for each in ("input_ids", "labels", LOSS_WEIGHTS) if each in pack]
        yield {
            "sample_id": name,
            "media": pack["media"][int(first[number]) : int(first[number + 1])],
            **{each: pack[each][number] for each in BESIDE if each in pack},
            **{each: pack[each][tokens] for each in columns},
        }


def _shown_run(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {"on": int(run.trained), "text": run.text}
    if run.times:
        found["times"] = run.times
    if run.media is not None:
        found["media"] = run.media
    if run.trained and run.weight != 1:
        found["weight"] = round(run.weight, 4)
    return found


def messages_of(row: Row) -> list[dict[str, str]]:
    """Return the stored conversation of a row as (role, text) of its messages.

    Raises:
        StoreError: it is damaged.
    """
    return [{"role": each["role"], "text": _text(each)} for each in conversation_of(row)["messages"]]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    said = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        said.append(str(part.get("text") or "") if kind == "text" else f"[{kind}]")
    rest = {name: value for name, value in message.items() if name not in {"role", "content"} and value}
    return "".join(said) + (f"\n{orjson.dumps(rest).decode()}" if rest else "")
