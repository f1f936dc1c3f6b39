"""Samples by number: what tokenize reads, whether raw rows or an ingested store.

Both give exactly one output for each number, a Sample or a Rejected, so that rows can be counted to the last.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, Unpack

import numpy as np
import orjson

from vlm_prep.core.errors import InputError
from vlm_prep.core.named_sources import is_named, is_placed, settled
from vlm_prep.core.records import Media, MediaHeader, Rejected, Sample
from vlm_prep.core.settings import SourceConfig
from vlm_prep.engine.tasks import Heartbeat, Task
from vlm_prep.ingest.entry import SourceOptions as SourceOptions
from vlm_prep.ingest.first_rows import check_shape
from vlm_prep.ingest.interleave import mixed
from vlm_prep.ingest.meta import read_source
from vlm_prep.ingest.raw_samples import MixedSamples, RawSamples
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.shards.manifest import MANIFEST, WORK
from vlm_prep.shards.object_store import RemotePath, StorePath, absolute, store_path
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_texts import conversation_of, media_of
from vlm_prep.shards.schema import KEPT


class Samples(Protocol):
    """Numbered samples. Picklable."""

    @property
    def origin(self) -> dict[str, Any]:
        """The arguments of `open_samples` that open them again."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[Sample | Rejected]:
        """Yield one output for each number in [start, stop)."""

    def reject(self, number: int, stage: str, reason: str, message: str) -> Rejected:
        """Return the reject of a number, made without reading what the row holds."""

    def numbers(self, sample_ids: Iterable[str]) -> dict[str, int]:
        """Return the number of each sample_id."""

    def identity(self) -> dict[str, Any]:
        """Return what the samples are made of, by content, for the fingerprint."""

    def describe(self) -> list[dict[str, Any]]:
        """Return one entry for each dataset, for manifests and people."""

    @property
    def data_files(self) -> frozenset[str]:
        """Real paths of the files that hold the rows, whose cells rows may read wherever media are confined to."""

    def first_rows(self) -> list[dict[str, Any]]:
        """Return what the first rows of each dataset give, without their media: rejects, notes, unread keys."""


class IngestedSamples:
    """The rows of a store made by `vlm-prep ingest`.

    Raises:
        StoreError: the store is unfinished or another stage's.
    """

    def __init__(self, folder: StorePath, limit: int | None = None) -> None:
        self._folder, self._limit = folder, limit
        self.origin = {"path": str(absolute(folder)), "limit": limit}
        self._store = Store(folder, stage="ingest")

    def __getstate__(self) -> tuple[StorePath, int | None]:
        return self._folder, self._limit

    def __setstate__(self, state: tuple[StorePath, int | None]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # maps are opened again in each process

    def __len__(self) -> int:
        return len(self._store) if self._limit is None else min(self._limit, len(self._store))

    def read(self, start: int, stop: int) -> Iterator[Sample | Rejected]:
        """See `Samples.read`."""
        for index in range(start, stop):
            yield sample_from_row(self._store.row(index))

    def reject(self, number: int, stage: str, reason: str, message: str) -> Rejected:
        """See `Samples.reject`."""
        row = self._store.row(number)
        names = {name: row[name] for name in ("sample_id", "dataset", "source", "line")}
        return Rejected(**names, stage=stage, reason=reason, message=message, kept=row.get(KEPT, ""))

    def numbers(self, sample_ids: Iterable[str]) -> dict[str, int]:
        """See `Samples.numbers`."""
        wanted, found, begin = set(sample_ids), {}, 0
        for shard in self._store.shards:
            for place, name in enumerate(shard.column("sample_id").to_pylist()):
                if name in wanted:
                    found[name] = begin + place
            begin += len(shard)
        return found

    def has_column(self, name: str) -> bool:
        """Whether the store's rows have a column."""
        return any(name in shard.schema.names for shard in self._store.shards[:1])

    @property
    def store(self) -> Store:
        """The store itself."""
        return self._store

    def identity(self) -> dict[str, Any]:
        """See `Samples.identity`."""
        return {"store": self._store.manifest.fingerprint, "rows": len(self)}

    def describe(self) -> list[dict[str, Any]]:
        """See `Samples.describe`."""
        found: list[dict[str, Any]] = self._store.manifest.extra["datasets"]
        return found

    @property
    def data_files(self) -> frozenset[str]:
        """See `Samples.data_files`: a store has none; what it names is confined like all else."""
        return frozenset()

    def first_rows(self) -> list[dict[str, Any]]:
        """See `Samples.first_rows`; the store's own totals say it of all rows."""
        return []


def how_read(samples: Samples) -> SourceConfig:
    """Return the settings that samples were opened with."""
    known = {each.name for each in fields(SourceConfig)}
    return SourceConfig(**{name: value for name, value in samples.origin.items() if name in known})


def read_task(
    samples: Samples, task: Task, heartbeat: Heartbeat, stage: str
) -> Iterator[tuple[int, Sample | Rejected]]:
    """Yield (number, output) for each row of a task, with a heartbeat before each row; poison is not read."""
    poison = {each.row: each for each in task.poison}
    numbers = [number for number in task.numbers if number not in poison]
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    read = chain.from_iterable(
        samples.read(int(run[0]), int(run[-1]) + 1) for run in np.split(np.array(numbers), breaks) if len(run)
    )
    for number in task.numbers:
        if number in poison:
            yield number, samples.reject(number, stage, poison[number].reason, poison[number].message)
        else:
            heartbeat(number)
            yield number, next(read)


def sample_row(sample: Sample) -> dict[str, Any]:
    """Return the columns of `shards.schema.sample_schema` for a probed sample."""
    conversation = {
        "messages": sample.messages,
        **({"tools": sample.tools} if sample.tools else {}),
        **({"strings": sample.strings} if sample.strings else {}),
    }
    return {
        "sample_id": sample.sample_id,
        "dataset": sample.dataset,
        "source": sample.source,
        "line": sample.line,
        "conversation": orjson.dumps(conversation).decode(),
        "media": orjson.dumps(list(sample.media)).decode(),
        KEPT: sample.kept,
    }


def sample_from_row(row: dict[str, Any]) -> Sample:
    """Read what `sample_row` wrote.

    Raises:
        StoreError: it is damaged.
    """
    conversation = conversation_of(row)
    return Sample(
        sample_id=row["sample_id"],
        dataset=row["dataset"],
        source=row["source"],
        line=row["line"],
        messages=conversation["messages"],
        strings=tuple(conversation.get("strings", ())),
        tools=conversation.get("tools"),
        media=tuple(_media(item) for item in media_of(row)),
        kept=row.get(KEPT, ""),
    )


def _media(item: dict[str, Any]) -> Media:
    header = item.get("header")
    if header is not None:
        pair = header.get("segment")
        times = header.get("times")
        digests = tuple(header.get("digests", ()))
        lists = {"digests": digests, "segment": pair and tuple(pair), "times": times and tuple(times)}
        header = MediaHeader(**{**header, **lists, "own_size": None})
    indices = item.get("frame_indices")
    return Media(
        **{
            **item,
            "uris": tuple(item["uris"]),
            "notes": tuple(item.get("notes", ())),
            "frame_indices": None if indices is None else tuple(indices),
            "header": header,
        }
    )


def _place(path: str | Path) -> str:
    """Return a path as it means the same from any working folder."""
    return settled(str(path)) if is_placed(path) else os.path.abspath(path)


_DATA = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".txt")


def _is_store(path: StorePath) -> bool:
    """Whether a source is the output of `vlm-prep ingest`; data files on an object store are told by their ends."""
    if isinstance(path, RemotePath):
        return path.suffix not in _DATA and (path / MANIFEST).exists()
    return (path / MANIFEST).exists() or (path / WORK).is_dir()


def open_samples(
    path: str | Path,
    *,
    limit: int | None = None,
    split_by: str | None = None,
    take: str | None = None,
    **how: Unpack[SourceOptions],
) -> Samples:
    """Open a meta JSON, a data file, the folder of a Hugging Face dataset, or the output of `vlm-prep ingest`.

    Examples:
        >>> import vlm_prep as vp
        >>> from vlm_prep.builtin import builtin_data
        >>> samples = vp.open_samples(builtin_data(), datasets=["photo_talk"], limit=2)
        >>> [sample.sample_id for sample in samples.read(0, len(samples))]
        ['photo_talk/0', 'photo_talk/1']

    Args:
        path: the source.
        limit: first rows only, of all datasets together, before they are split.
        split_by: sides of a split by hash, with `take`, the one that is read; see `core.sides`.
        take: the name of a side.
        how: see `meta.load_source`; all but `datasets` for a data file only, a meta JSON says them in its entries.

    Raises:
        InputError: the source is not usable.
        StoreError: an ingested store that is not finished.
    """
    folder = store_path(path)
    if (split_by is None) != (take is None):
        raise InputError("`split_by` names the sides of a split and `take` the one to read", "give both or neither")
    if not is_named(path) and _is_store(folder):
        if any(how.values()) or split_by:
            raise InputError(
                f"{path} is ingested already: options that say how to read a source have no meaning for it",
                "give them to `vlm-prep ingest`",
            )
        return IngestedSamples(folder, limit)
    found = read_source(path, **how)
    media_dir = how.get("media_dir")
    where = {"path": _place(path), "media_dir": None if media_dir is None else _place(media_dir)}
    given = {name: value for name, value in how.items() if value not in (None, False) and name not in where}
    always = dict.fromkeys(("datasets", "format", "columns", "tags", "sample_ratio"))
    sources: list[RowSource] = []
    left = limit if found.mix is None else None
    for spec in found.specs:
        source = RowSource.open(spec, left)
        check_shape(source)
        sources.append(source if split_by is None or take is None else source.on_side(split_by, take))
        if left is not None:
            left -= len(source)
    given |= {} if split_by is None else {"split_by": split_by, "take": take}
    origin = {**where, **always, **given, "limit": limit}
    if found.mix is None:
        return RawSamples(tuple(sources), origin)
    taken, order = mixed(sources, found.mix)
    return MixedSamples(taken, origin, found.mix, order[:limit])
