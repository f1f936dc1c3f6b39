"""What a task of tokenizing leaves: its shards, and its counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from vlm_prep.core.records import Encoded, Rejected, counts_of
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.stored_media import probed_media
from vlm_prep.engine.tasks import Record, Task
from vlm_prep.ingest.unread_keys import UNREAD, Unread
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.payload.stored import is_exact
from vlm_prep.shards.schema import tokenized_schema
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.writer import SHARD_BYTES, ShardWriter
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.verify.choose import ROWS_PER_KIND, media_kind
from vlm_prep.tokenize.verify.shapes import Shape

EXTRA_DOCUMENTS = "extra_documents"
"""Count of the documents that rows gave beyond one each."""


def schema_for(adapter: Adapter, config: TokenizeConfig, *, kept: bool) -> pa.Schema:
    """Return the schema of a run's shards; `kept` says whether columns of the source travel with the rows."""
    tensors = [asdict(tensor) for tensor in adapter.geometry]
    return tokenized_schema(
        tensors,
        weights=config.loss_weights,
        kept=kept,
        rescue=config.overlong == "rescue",
        boxes=config.boxes is not None,
    )


class TaskWriter:
    """The shards of one task: a new one each 256 MiB."""

    def __init__(self, task: int, folder: Path, schema: pa.Schema, config: TokenizeConfig) -> None:
        self._task, self._folder, self._schema, self._config = task, folder, schema, config
        self._writer: ShardWriter | None = None
        self._rows = 0
        self._infos: list[ShardInfo] = []
        self.shared: Counter[str] = Counter()
        """What the accounts say of media that several rows of a shard have."""

    def __enter__(self) -> TaskWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.__exit__(*exc)

    def write(self, row: dict[str, Any], encoded: Encoded) -> tuple[int, int]:
        """Write a row; return (shard number in the task, row in it)."""
        if self._writer is None:
            name = f"task-{self._task:06d}-{len(self._infos):03d}.arrow"
            share = self._config.share_media == "shard"
            path, compress = self._folder / name, self._config.compress
            self._writer, self._rows = ShardWriter(path, self._schema, share=share, compress=compress), 0
        a_token = 8 if encoded.loss_weights is None else 12
        size = a_token * len(encoded.input_ids) + len(encoded.conversation) + 256
        self._writer.write(row, size=size, tokens=len(encoded.input_ids))
        place = len(self._infos), self._rows
        self._rows += 1
        if self._writer.bytes >= SHARD_BYTES:
            self._commit(self._writer)
        return place

    def _commit(self, writer: ShardWriter) -> None:
        self._infos.append(writer.commit())
        self.shared.update(writer.shared.counts())
        self._writer = None

    def close(self) -> list[ShardInfo]:
        """Commit the last shard and return all."""
        if self._writer is not None:
            self._commit(self._writer)
        return self._infos


class Tally:
    """Counts of one task, and which of its rows may be compared later.

    Args:
        is_media: which ids are media tokens.
    """

    def __init__(self, is_media: Callable[[NDArray[np.int32]], NDArray[np.bool_]]) -> None:
        self._is_media = is_media
        self.rejects: list[Rejected] = []
        self._counts: Counter[str] = Counter(rows_in=0, rows_written=0, rows_rejected=0, tokens=0, trained_tokens=0)
        self._datasets: dict[str, Counter[str]] = {}
        self._kinds: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self.firsts: dict[Shape, int] = {}
        """The first row of each shape."""
        self.refused: dict[Shape, int] = {}
        """A row of the compared share that the real processor cannot take, for each shape that such a row has."""
        self._spare: dict[str, list[list[int]]] = {}
        self.unread: Unread = {}

    def reject(self, rejected: Rejected) -> None:
        """Count a row that was not written."""
        self.rejects.append(rejected)
        for counts in (self._counts, self._dataset(rejected.dataset)):
            counts.update(rows_in=1, rows_rejected=1)

    def wrote(self, encoded: Encoded, row: dict[str, Any], place: tuple[int, int, int], *, spare: bool) -> None:
        """Count a document that was written, and with a row's first one the row; `place` is the row's number, the
        document's shard in the task, and its row there; a `spare` one may be compared at the end of the run."""
        tokens, trained = len(encoded.input_ids), int(np.count_nonzero(encoded.labels != IGNORE))
        of_media = int(np.count_nonzero(self._is_media(encoded.input_ids)))
        kinds = counts_of(map(probed_media, encoded.media))
        for counts in (self._counts, self._dataset(encoded.dataset)):
            if encoded.document == 1:
                counts.update(rows_in=1, rows_written=1, **dict.fromkeys(encoded.notes, 1))
            else:
                counts[EXTRA_DOCUMENTS] += 1
            counts["tokens"] += tokens
            counts["trained_tokens"] += trained
            counts["media_tokens"] += of_media
            counts.update({"images": 0, "videos": 0, **kinds})
        self.count(structural_tokens=encoded.structural_tokens)
        if encoded.rescue and encoded.document == 1:
            was, now = orjson.loads(encoded.rescue)["tokens"]
            self.count(rescued_rows=1, rescued_from_tokens=was, rescued_to_tokens=now)
        exact = sum(is_exact(item["tensors"]) for item in encoded.media)
        self.count(media_exact=exact)
        kind = media_kind(row["media"])
        self._kinds[kind] += 1
        if spare and len(known := self._spare.setdefault(kind, [])) < ROWS_PER_KIND:
            known.append(list(place))

    def count(self, **numbers: int) -> None:
        """Add to the counts, of what there is any."""
        self._counts.update({name: number for name, number in numbers.items() if number})

    def _dataset(self, name: str) -> Counter[str]:
        return self._datasets.setdefault(name, Counter(rows_in=0, rows_written=0, rows_rejected=0))

    def record(self, task: Task, infos: list[ShardInfo], equal: Container[int]) -> Record:
        """Return the task's record; `equal` are rows that this process has compared with the real processor."""
        return Record(
            task=task.index,
            split=task.split,
            shards=tuple(infos),
            rejects=tuple(self.rejects),
            counts=dict(self._counts),
            facts={
                "datasets": {name: dict(counts) for name, counts in self._datasets.items()},
                "kinds": dict(self._kinds),
                "checked": dict(self.checked),
                "spare": self._spare,
                "shapes": sorted(self.firsts),
                "firsts": dict(sorted(self.firsts.items())),
                "equal": sorted({number for number in self.firsts.values() if number in equal}),
                "refused": dict(sorted(self.refused.items())),
                UNREAD: self.unread,
            },
        )
