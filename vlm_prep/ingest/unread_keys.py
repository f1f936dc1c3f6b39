"""Keys that nobody reads, counted by data set with an example: what records, manifests and notes say of them.

    {"photos": {"row.score": {"rows": 812, "example": "0.5"},
                "row.thumb": {"rows": 9, "example": "'a.png'", "media": true}}}

Counts are sums over tasks and an example is the first task's, so they are the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from vlm_prep.core.visible import excerpt, visible
from vlm_prep.ingest.formats.noticed import looks_like_media

UNREAD: Final = "unread_keys"
"""Where a record's facts and a manifest's totals hold them."""
Unread = dict[str, dict[str, dict[str, Any]]]
_MOST: Final = 200
"""Keys of a data set that are told apart; objects with keys of their own in each row would fill a manifest."""
_REST: Final = "(other keys)"
_NAME: Final = 100


def count_unread(found: Unread, dataset: str, unread: Mapping[str, Any]) -> None:
    """Add what one row's reading left."""
    if not unread:
        return
    known = found.setdefault(dataset, {})
    for place, value in unread.items():
        name = visible(place[:_NAME])
        if name not in known and len(known) >= _MOST:
            name = _REST
        entry = known.get(name)
        if entry is None:
            entry = known[name] = {"rows": 0, "example": excerpt(value)}
        if "media" not in entry and looks_like_media(value):
            entry.update(media=True, example=excerpt(value))
        entry["rows"] += 1


def sum_unread(parts: Iterable[Unread]) -> Unread:
    """Return the counts of several records together, the most frequent first."""
    total: Unread = {}
    for part in parts:
        for dataset, places in part.items():
            known = total.setdefault(dataset, {})
            for place, entry in places.items():
                name = place if place in known or len(known) < _MOST else _REST
                before = known.get(name)
                if before is None:
                    known[name] = dict(entry)
                    continue
                rows = before["rows"] + entry["rows"]
                if "media" in entry and "media" not in before:
                    before.update(entry)
                before["rows"] = rows
    return {
        dataset: dict(sorted(places.items(), key=lambda item: (-item[1]["rows"], item[0])))
        for dataset, places in sorted(total.items())
    }


def unread_notes(totals: Mapping[str, Any]) -> list[str]:
    """Return what to say of a finished store's unread keys."""
    return [f"note: {line}" for line in unread_lines(totals.get(UNREAD, {}))]


def _way(place: str) -> str:
    """How media are read that stand at a place."""
    if place.startswith("row."):
        return "name its column with `columns`"
    return "media of a message are parts of its content, or stand in the row's column with a tag in the text"


def unread_lines(unread: Unread) -> list[str]:
    """Return what is said of unread keys: media in full, the rest in one line for each data set."""
    lines = []
    for dataset, places in unread.items():
        media = {place: entry for place, entry in places.items() if entry.get("media")}
        lines += [
            f"{dataset}: {place} holds what looks like media ({entry['example']}) and is NOT read, "
            f"{entry['rows']:,} rows; {_way(place)}, or say `ignore_keys`"
            for place, entry in media.items()
        ]
        rest = [
            f"{place} ({entry['rows']:,}, e.g. {entry['example']})"
            for place, entry in places.items()
            if place not in media
        ]
        if rest:
            more = f", and {len(rest) - 12} more" if len(rest) > 12 else ""
            lines.append(f"{dataset}: not read: {', '.join(rest[:12])}{more}")
    return lines
