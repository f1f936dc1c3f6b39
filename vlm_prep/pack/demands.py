"""What each row of a tokenized store asks of a pack: tokens, patches, media, seconds of audio, and kinds of media.

Read from list offsets, grids and media headers; no media is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.shards.joined import PickedStore
from vlm_prep.shards.media_kinds import kinds_in
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import MEDIA_COLUMN

Rows = NDArray[np.int64]
_GRIDS = ("image_grid_thw", "video_grid_thw")


@dataclass(frozen=True, kw_only=True, eq=False)
class Demands:
    """Of every row, in the store's order."""

    tokens: Rows
    """(n,)"""
    patches: Rows
    """(n,) patches of its pictures and videos; where no grids are stored, its media tokens."""
    media: Rows
    """(n,) pictures, videos and audios."""
    audio_ms: Rows
    """(n,) milliseconds of audio, each clip rounded up."""
    kinds: NDArray[np.uint8]
    """(n,) which kinds of media it has, a bit each (`media_kinds.KINDS`)."""

    def limited(self, config: PackConfig) -> tuple[list[str], Rows, list[int]]:
        """Return the names, (n, k) demands and (k,) capacities that a pack's settings limit; tokens come first.

        Tokens count with each document's padding to `document_multiple`.
        """
        ones, multiple = np.ones_like(self.tokens), config.document_multiple
        limits = [
            ("tokens", -(-self.tokens // multiple) * multiple, config.pack_length),
            ("patches", self.patches, config.pack_patches),
            ("media", self.media, config.pack_media),
            ("documents", ones, config.pack_documents),
            ("audio_ms", self.audio_ms, None if config.pack_audio is None else int(config.pack_audio * 1000)),
        ]
        given = [(name, column, limit) for name, column, limit in limits if limit is not None]
        return [name for name, _, _ in given], np.stack([column for _, column, _ in given], 1), [x for _, _, x in given]


def demands_of(store: Store) -> Demands:
    """Read what the rows of a store ask for."""
    if isinstance(store, PickedStore):
        whole = demands_of(store.base)
        return Demands(**{each.name: getattr(whole, each.name)[store.index] for each in fields(whole)})
    media, audio_ms, kinds = _media(store)
    return Demands(tokens=store.lengths(), patches=visual_tokens(store), media=media, audio_ms=audio_ms, kinds=kinds)


def _media(store: Store) -> tuple[Rows, Rows, NDArray[np.uint8]]:
    counts = np.zeros(len(store), np.int64)
    audio_ms = np.zeros(len(store), np.int64)
    kinds = np.zeros(len(store), np.uint8)
    start = 0
    for shard in store.shards:
        for chunk in shard.column(MEDIA_COLUMN).chunks:
            rows = slice(start, start + len(chunk))
            start += len(chunk)
            lengths = chunk.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            items = chunk.flatten()
            of = np.repeat(np.arange(len(chunk)), lengths)
            counts[rows] = lengths
            kinds[rows] = kinds_in(chunk)
            samples = pc.fill_null(items.field("samples"), 0).to_numpy(zero_copy_only=False).astype(np.int64)
            rate = pc.fill_null(items.field("sampling_rate"), 1).to_numpy(zero_copy_only=False).astype(np.int64)
            milliseconds = -(-samples * 1000 // np.maximum(rate, 1))
            audio_ms[rows] = np.bincount(of, weights=milliseconds, minlength=len(chunk)).astype(np.int64)
    return counts, audio_ms, kinds


def frame_counts(store: Store) -> list[int]:
    """Return the different numbers of frames of its videos, sorted."""
    rows, frames = _frames(store.base if isinstance(store, PickedStore) else store)
    if isinstance(store, PickedStore):
        frames = frames[np.isin(rows, store.index)]
    return [int(count) for count in np.unique(frames) if count]


def _frames(store: Store) -> tuple[Rows, Rows]:
    """The row of each media, and its frames, 0 of what is no video."""
    rows, frames, start = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for shard in store.shards:
        for chunk in shard.column(MEDIA_COLUMN).chunks:
            lengths = chunk.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            rows.append(np.repeat(np.arange(start, start + len(chunk)), lengths))
            of_media = pc.fill_null(pc.list_value_length(chunk.flatten().field("frame_indices")), 0)
            frames.append(of_media.to_numpy(zero_copy_only=False).astype(np.int64))
            start += len(chunk)
    return np.concatenate(rows), np.concatenate(frames)


def visual_tokens(store: Store) -> Rows:
    """Return (rows,) what the encoders of each row's media cost, in any unit.

    The patches of its pictures and videos where grids of both are stored and there is no audio; else its media tokens,
    for which all ids are read (1 to 2 GB/s).
    """
    runtime = store.manifest.processor
    tensors = {tensor["name"] for tensor in runtime["tensors"]}
    names = [f"{kind}_grid_thw" for kind in runtime["parts"]]
    if "run_ids" not in runtime or tensors.issuperset(names):
        return _totals(store, [name for name in _GRIDS if name in tensors], _patches)
    return _totals(store, ["input_ids"], partial(_count, tokens=runtime["run_ids"]))


def _totals(store: Store, names: Sequence[str], measure: Callable[[pa.ListArray], Rows]) -> Rows:
    """Return (rows,) the sum over columns of what `measure` finds in each row of a chunk."""
    totals = np.zeros(len(store), np.int64)
    for name in names:
        start = 0
        for shard in store.shards:
            for chunk in shard.column(name).chunks:
                totals[start : start + len(chunk)] += measure(chunk)
                start += len(chunk)
    return totals


def _count(ids: pa.ListArray, tokens: Sequence[int]) -> Rows:
    """Number of media tokens in each row."""
    lengths = ids.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    flat = ids.flatten().to_numpy(zero_copy_only=False)
    found = np.zeros(len(flat), np.bool_)
    for token in tokens:
        found |= flat == token
    sums = np.concatenate([[0], np.cumsum(found)])
    ends = np.cumsum(lengths)
    return np.asarray(sums[ends] - sums[ends - lengths], np.int64)


def _patches(grids: pa.ListArray) -> Rows:
    """Sum of frames x rows x columns over the grids of each row."""
    counts = grids.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    flat = grids.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 3).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(flat.prod(axis=1))])
    ends = np.cumsum(counts)
    return np.asarray(sums[ends] - sums[ends - counts], np.int64)
