"""With `share_media=shard` a media that many rows of a shard have is stored once, with the first of them; see `schema`.

The group is the shard: rows of a shard are written by one task and read from one map, so that nothing needs to be known
of other shards, neither by the writer nor by a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xxhash

from vlm_prep.core.stored_media import StoredMedia

_WARNING = """**Of {media:,} media the bytes stand with an earlier row of their shard** (`--share-media shard`).
`ShardDataset` and `ShardReader` follow that; other libraries see null `bytes` and `tensors` there, and `same_as` set.
Before they shuffle or select rows, the bytes are those of
`rows[i - same_as["rows_before"]]["media"][same_as["media"]]`; afterwards, of stores that hold files, those of any media
whose file has the same `digest`. Made with `--share-media none`, each row has its own.

"""


def card_warning(totals: Mapping[str, Any]) -> str:
    """Return what the data card of a store says first where rows lack media that others have; else nothing."""
    return _WARNING.format(media=totals["media_shared"]) if totals.get("media_shared") else ""


def payload_bytes(struct: StoredMedia) -> int:
    """Return how many bytes a shard holds of a media: of its files and of its tensors."""
    return sum(len(content) for content in _contents(struct))


class SharedMedia:
    """The media of one shard that is being written.

    Args:
        share: store a media once; else it is only counted how often that could be.
    """

    def __init__(self, *, share: bool) -> None:
        self._share = share
        self._first: dict[bytes, tuple[int, int]] = {}
        self.media = 0
        """Media that an earlier row has too."""
        self.bytes = 0
        """What they take where they are not shared."""

    def counts(self) -> dict[str, int]:
        """Return what the accounts say of them."""
        what = "shared" if self._share else "repeated"
        return {f"media_{what}": self.media, f"media_{what}_bytes": self.bytes} if self.media else {}

    def share(self, row: int, media: Sequence[StoredMedia]) -> list[StoredMedia]:
        """Return a row's media without the bytes that the shard holds already.

        Args:
            row: its number in the shard.
            media: of the row.
        """
        return [self._shared(struct, (row, place)) for place, struct in enumerate(media)]

    def _shared(self, struct: StoredMedia, place: tuple[int, int]) -> StoredMedia:
        size = payload_bytes(struct)
        if not size:
            return struct
        first = self._first.setdefault(_digest(struct), place)
        if first == place:
            return struct
        self.media += 1
        self.bytes += size
        if not self._share:
            return struct
        files = [{**file, "bytes": None} for file in struct["files"]]
        same_as = {"rows_before": place[0] - first[0], "media": first[1]}
        return {**struct, "files": files, "tensors": None, "same_as": same_as}


def resolve(
    row: int, media: Sequence[StoredMedia], read: Callable[[int], Sequence[StoredMedia]]
) -> Sequence[StoredMedia]:
    """Return a row's media with the bytes that are stored with earlier rows of its shard.

    Args:
        row: its number in the shard.
        media: as the shard holds them.
        read: returns the media of a row of the shard.
    """
    places = [struct["same_as"] for struct in media]
    if not any(places):
        return media
    return [
        _resolved(row, struct, place, read) if place else struct for struct, place in zip(media, places, strict=True)
    ]


def _resolved(
    row: int, struct: StoredMedia, place: Mapping[str, int], read: Callable[[int], Sequence[StoredMedia]]
) -> StoredMedia:
    first = read(row - place["rows_before"])[place["media"]]
    files = [{**file, "bytes": other["bytes"]} for file, other in zip(struct["files"], first["files"], strict=True)]
    return {**struct, "files": files, "tensors": first["tensors"], "same_as": None}


def _contents(struct: StoredMedia) -> list[Any]:
    files = [file["bytes"] for file in struct["files"] if file["bytes"] is not None]
    return [*files, *(tensor["data"] for tensor in struct["tensors"] or ())]


def _digest(struct: StoredMedia) -> bytes:
    """Hash a media's stored bytes and what they mean."""
    state = xxhash.xxh3_128(struct["kind"].encode())
    for content in _contents(struct):
        state.update(len(content).to_bytes(8, "little"))
        state.update(content)
    for tensor in struct["tensors"] or ():
        shape = [int(size) for size in tensor["shape"]]
        state.update(f"{tensor['name']} {tensor['dtype']} {shape} {tensor['coded']}".encode())
    return state.digest()
