"""A row as the page shows it: what the model reads in runs, what of it is trained, its media and token counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vlm_prep.report.view.shown_media import shown_media
from vlm_prep.shards.schema import KEPT, LOSS_WEIGHTS

IGNORE = -100
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How ids become text; without a tokenizer the stored conversation is shown instead."""

    tokenizer: Any = None
    media_ids: Collection[int] = ()


def shown_row(row: Row, reader: Reader) -> dict[str, Any]:
    """Return a row of a tokenized store, or a document of a pack, as JSON-ready data."""
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    trained = labels != IGNORE
    media = [shown_media(each) for each in row["media"]]
    in_media = np.isin(ids, list(reader.media_ids))
    found: dict[str, Any] = {
        "id": row["sample_id"],
        "dataset": row.get("dataset", ""),
        "kept": row.get(KEPT) or "",
        "tokens": len(ids),
        "trained": int(trained.sum()),
        "kind": "+".join(sorted({each["kind"] for each in media})) or "text",
        "media": media,
        "parts": {
            "trained": int(trained.sum()),
            "media": int(in_media.sum()),
            "other": int((~trained & ~in_media).sum()),
        },
    }
    if reader.tokenizer is not None:
        weights = row.get(LOSS_WEIGHTS)
        found["runs"] = list(_runs(ids, trained, in_media, weights, reader.tokenizer))
        _name_media(found["runs"], media)
    elif row.get("conversation"):
        found["messages"] = _messages(row["conversation"])
    return found


def shown_sample(row: Row) -> dict[str, Any]:
    """Return a row of an ingested store, which has no tokens yet."""
    media = orjson.loads(row["media"]) if row["media"] else []
    return {
        "id": row["sample_id"],
        "dataset": row["dataset"],
        "kept": row.get(KEPT) or "",
        "kind": "+".join(sorted({each.get("kind", "") for each in media})) or "text",
        "media": [{"kind": each.get("kind", ""), "name": (each.get("uris") or [""])[0], "note": ""} for each in media],
        "messages": _messages(row["conversation"]),
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
            KEPT: pack[KEPT][number] if KEPT in pack else "",
            **{each: pack[each][tokens] for each in columns},
        }


def _runs(
    ids: NDArray[Any], trained: NDArray[np.bool_], in_media: NDArray[np.bool_], weights: Any, tokenizer: Any
) -> Iterator[dict[str, Any]]:
    weight = np.ones(len(ids)) if weights is None else np.asarray(weights)
    same = (trained[1:] == trained[:-1]) & (weight[1:] == weight[:-1])
    same &= np.where(in_media[1:] | in_media[:-1], ids[1:] == ids[:-1], True)
    edges = [0, *(np.flatnonzero(~same) + 1).tolist(), len(ids)]
    for start, end in pairwise(edges):
        if start == end:
            continue
        run: dict[str, Any] = {"on": int(trained[start])}
        if in_media[start]:
            run |= {"text": tokenizer.decode(ids[start : start + 1].tolist()), "times": end - start}
        else:
            run["text"] = tokenizer.decode(ids[start:end].tolist())
        if run["on"] and weight[start] != 1:
            run["weight"] = round(float(weight[start]), 4)
        yield run


def _name_media(runs: list[dict[str, Any]], media: list[dict[str, Any]]) -> None:
    """Say which media a run stands for, where each has one run."""
    folded = [run for run in runs if "times" in run]
    if len(folded) == len(media):
        for number, run in enumerate(folded):
            run["media"] = number


def _messages(conversation: str) -> list[dict[str, str]]:
    row = orjson.loads(conversation)
    messages = row["messages"] if isinstance(row, dict) else row
    return [{"role": str(each.get("role", "")), "text": _text(each)} for each in messages]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    said = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        said.append(str(part.get("text") or "") if kind == "text" else f"[{kind}]")
    rest = {name: value for name, value in message.items() if name not in {"role", "content"} and value}
    return "".join(said) + (f"\n{orjson.dumps(rest).decode()}" if rest else "")
