"""Which media stands where in a conversation, and that none is left over or missing.

`<image>`, `<video>` and `<audio>` (any case, no blanks inside) stand for the next entry of the images, videos
and audios columns. The kinds are counted apart; `Sample.media` has them in the order of their parts. A count that
differs rejects the row: dropping the surplus would train on a question about a picture that is not there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaKind

Part = dict[str, Any]

_TAG = re.compile(r"(<image>|<video>|<audio>)", re.IGNORECASE)
_KINDS: dict[str, MediaKind] = {"<image>": "image", "<video>": "video", "<audio>": "audio"}


class MediaQueue:
    """Hands out a row's media in the order in which the conversation asks for them."""

    def __init__(self, columns: dict[MediaKind, list[Media]], media_dir: Path | str) -> None:
        self.media_dir = media_dir
        self._columns = columns
        self._asked: dict[MediaKind, int] = {"image": 0, "video": 0, "audio": 0}
        self._kept_as_text = 0
        self.placed: list[Media] = []

    def place_next(self, kind: MediaKind) -> Part:
        """Return the part of the column's next entry; one too many is reported by `require_balance`."""
        if self._asked[kind] < len(self._columns[kind]):
            self.placed.append(self._columns[kind][self._asked[kind]])
        self._asked[kind] += 1
        return {"type": kind}

    def place(self, media: Media) -> Part:
        """Return the part of a media that its own message names."""
        self.placed.append(media)
        return {"type": media.kind}

    def asked(self, kind: MediaKind) -> int:
        """Return how many entries of the column were asked for so far."""
        return self._asked[kind]

    def note_text(self, text: str) -> None:
        """Count the tags of a text that stays text, for the message of a mismatch."""
        self._kept_as_text += len(_TAG.findall(text))

    def require_balance(self) -> None:
        """Check that every entry has a placeholder and every placeholder an entry.

        Raises:
            Reject: MEDIA_COUNT_MISMATCH, with both counts.
        """
        if all(self._asked[kind] == len(entries) for kind, entries in self._columns.items()):
            return
        counts = "; ".join(
            f"{self._asked[kind]} {kind} placeholder(s) for {len(entries)} {kind}(s)"
            for kind, entries in self._columns.items()
            if self._asked[kind] != len(entries)
        )
        note = f"; {self._kept_as_text} more in assistant turns stay text" if self._kept_as_text else ""
        raise Reject(RejectReason.MEDIA_COUNT_MISMATCH, counts + note)


def has_tags(text: str) -> bool:
    """Return whether a text holds a placeholder."""
    return _TAG.search(text) is not None


def split_tags(text: str, queue: MediaQueue) -> list[Part]:
    """Return a text as parts: its tags as media, what is between them verbatim, empty pieces left out."""
    parts = [_piece(piece, queue) for piece in _TAG.split(text) if piece]
    return parts or [{"type": "text", "text": ""}]


def _piece(piece: str, queue: MediaQueue) -> Part:
    kind = _KINDS.get(piece.lower())
    return queue.place_next(kind) if kind else {"type": "text", "text": piece}
