"""Materializing packs: what a worker does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.config import ShardFormat, TarMedia
from vlm_prep.core.errors import RejectReason, StoreError
from vlm_prep.core.types import Rejected
from vlm_prep.engine.tasks import NO_ROW, Poison, Pulse, Record, Task
from vlm_prep.pack.assemble import assemble_pack
from vlm_prep.pack.plan import Plan
from vlm_prep.pack.positions import Mrope
from vlm_prep.shards.reader import Store
from vlm_prep.shards.remote import StorePath
from vlm_prep.shards.schema import LOSS_WEIGHTS, packed_schema, plan_schema
from vlm_prep.shards.tar import TarWriter
from vlm_prep.shards.writer import SHARD_BYTES, ShardInfo, ShardWriter

STAGE = "pack"
PLAN_SPLIT = "plan"


def rank_split(rank: int) -> str:
    """Return the folder of a rank's shards."""
    return f"rank_{rank:05d}"


@dataclass
class PackJob:
    """Writes the packs of a plan. Task 0 is the plan itself; the others are packs [start, stop) of one rank.

    Args:
        source: the tokenized store.
        plan: which documents share a pack.
        rule: how mRoPE positions are computed, or None.
        write_plan: whether task 0 writes the plan as a shard (layout "index").
        format: of the shards.
        tar_media: see `shards.tar`.
    """

    preload: ClassVar[tuple[str, ...]] = (__name__,)
    source: StorePath
    plan: Plan
    rule: Mrope | None
    write_plan: bool
    format: ShardFormat = "arrow"
    tar_media: TarMedia = "joined"
    _store: Store = field(init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        names = ("source", "plan", "rule", "write_plan", "format", "tar_media")
        return {name: getattr(self, name) for name in names}

    def setup(self) -> None:
        """See `engine.tasks.Job`."""
        self._store = Store(self.source, stage="tokenize")

    def run(self, task: Task, shards: Path, pulse: Pulse) -> Record:
        """See `engine.tasks.Job`."""
        if task.split == PLAN_SPLIT:
            return self._plan_record(task, shards)
        rank = int(task.split.removeprefix("rank_"))
        numbers = self.plan.packs_of(rank)[task.start : task.stop]
        documents = tokens = 0
        infos: list[ShardInfo] = []
        position = 0
        while position < len(numbers):
            with self._writer(shards / f"task-{task.index:06d}-{len(infos):03d}") as writer:
                while position < len(numbers) and writer.bytes < SHARD_BYTES:
                    pulse(task.start + position)
                    pack = self._assemble(numbers[position])
                    length = len(pack["input_ids"])
                    writer.write(pack, size=_size(pack), tokens=length)
                    documents, tokens, position = documents + len(pack["seq_lens"]), tokens + length, position + 1
                pulse(NO_ROW)
                infos.append(writer.commit())
        counts = {
            "rows_in": documents,
            "rows_written": documents,
            "rows_rejected": 0,
            "tokens": tokens,
            "packs": len(numbers),
        }
        return Record(task=task.index, split=task.split, shards=tuple(infos), counts=counts)

    def blame(self, task: Task, poison: Poison) -> str:
        """See `engine.tasks.Job`; packs are copies of checked shards: one that cannot be made is no fault of a row."""
        numbers = self.plan.packs_of(int(task.split.removeprefix("rank_")))
        names = ", ".join(self._store.row(int(row))["sample_id"] for row in self.plan.pack(numbers[poison.row]))
        return f"{self.source}: making the pack of {names} {poison.message}"

    def _writer(self, path: Path) -> ShardWriter | TarWriter:
        if self.format == "webdataset":
            return TarWriter(path.with_suffix(".tar"), separate=self.tar_media == "separate")
        weights = LOSS_WEIGHTS in self._store.shards[0].schema.names
        schema = packed_schema(self._tensors, positions=self._positions, weights=weights)
        return ShardWriter(path.with_suffix(".arrow"), schema)

    @property
    def _positions(self) -> str:
        if self.rule is None:
            return "plain"
        return "mrope float" if self.rule.scheme == "qwen3_omni_moe" else "mrope"

    @property
    def _tensors(self) -> list[dict[str, Any]]:
        tensors: list[dict[str, Any]] = self._store.manifest.processor["tensors"]
        return tensors

    def _assemble(self, number: int) -> dict[str, Any]:
        documents = [self._store.row(int(row)) for row in self.plan.pack(number)]
        try:
            return assemble_pack(documents, number, self.rule, [tensor["name"] for tensor in self._tensors])
        except ValueError as error:
            names = ", ".join(document["sample_id"] for document in documents)
            raise StoreError(f"{self.source}: positions of {names}: {error}", "tokenize again") from error

    def _plan_record(self, task: Task, shards: Path) -> Record:
        rejects = tuple(self._too_long(int(row)) for row in self.plan.too_long)
        infos: tuple[ShardInfo, ...] = ()
        counts = {"rows_in": len(rejects), "rows_written": 0, "rows_rejected": len(rejects), "tokens": 0, "packs": 0}
        if self.write_plan:
            infos = (self._write_plan(shards / f"task-{task.index:06d}-000.arrow"),)
            counts["packs"] = self.plan.n_packs
            counts["tokens"] = self.plan.tokens
            counts["rows_in"] += len(self.plan.rows)
            counts["rows_written"] = len(self.plan.rows)
        return Record(task=task.index, split=task.split, shards=infos, rejects=rejects, counts=counts)

    def _write_plan(self, path: Path) -> ShardInfo:
        with ShardWriter(path, plan_schema()) as writer:
            for number in range(self.plan.n_packs):
                rows = self.plan.pack(number)
                row = {"pack_id": number, "rank": number % self.plan.world_size, "rows": rows}
                writer.write(row, size=8 * len(rows) + 16, tokens=0)
            return writer.commit()

    def _too_long(self, index: int) -> Rejected:
        row = self._store.row(index)
        return Rejected(
            sample_id=row["sample_id"],
            dataset=row["dataset"],
            source=self.source.name,
            line=index,
            stage=STAGE,
            reason=RejectReason.LONGER_THAN_PACK.value,
            message=f"{len(row['input_ids'])} tokens, a pack holds {self.plan.pack_length}",
        )


def _size(pack: dict[str, Any]) -> int:
    media = sum(len(file["bytes"] or b"") for item in pack["media"] for file in item["files"])
    weights = 4 * len(pack.get(LOSS_WEIGHTS, ()))
    return int(8 * len(pack["input_ids"]) + weights + np.asarray(pack["position_ids"]).nbytes + media + 256)
