"""Materializing packs: what a worker does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xxhash

from vlm_prep.core.errors import ExactnessError, Reject, RejectReason, StoreError
from vlm_prep.core.media_settings import Compression, MediaSharing
from vlm_prep.core.own_process import one_thread
from vlm_prep.core.processor_record import ProcessorRecord, TensorRecord
from vlm_prep.core.records import Rejected
from vlm_prep.core.settings import MediaMode, ShardFormat, TarMedia
from vlm_prep.engine.tasks import NO_ROW, Heartbeat, Poison, Record, Task
from vlm_prep.pack.assemble import assemble_pack
from vlm_prep.pack.model_rule import Rule
from vlm_prep.pack.pack_plan import KINDS_APART, PLAN_SPLIT, Plan
from vlm_prep.processors.payload.maker import PayloadMaker, raise_media
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.payload.stored import is_exact
from vlm_prep.shards.code_place import from_named_place
from vlm_prep.shards.joined import folder_of, open_joined
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import BESIDE, KEPT, LOSS_WEIGHTS, packed_schema, plan_schema
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.tar import TarWriter
from vlm_prep.shards.writer import SHARD_BYTES, ShardWriter

STAGE = "pack"


_COMPARED_FIRST = 4
_COMPARED = 0.01
"""Share of the documents whose raised tensors are compared with the processor's."""


def is_chosen(sample_id: str) -> bool:
    """Whether a document belongs to the compared share; by its name, so that it does for any number of workers."""
    return xxhash.xxh3_64_intdigest(sample_id.encode()) < _COMPARED * 2**64


@dataclass
class PackJob:
    """Writes the packs of a plan. Task 0 is the plan itself; the others are packs [start, stop) of one rank.

    Args:
        sources: the tokenized store, or several.
        plan: which documents share a pack.
        rule: how mRoPE positions are computed, or None.
        write_plan: whether task 0 writes the plan as a shard (layout "index").
        format: of the shards.
        tar_media: see `shards.tar`.
        media: the payload to raise media to, or None.
        payload: how media become tensors, for "pixels".
        trust_remote_code: for a processor that comes with code, for "pixels".
        processor: its place, where the caller names it.
    """

    preload: ClassVar[tuple[str, ...]] = (__name__,)
    sources: tuple[StorePath, ...]
    plan: Plan
    rule: Rule | None
    write_plan: bool
    format: ShardFormat = "arrow"
    tar_media: TarMedia = "joined"
    share_media: MediaSharing = "none"
    compress: Compression = "none"
    media: MediaMode | None = None
    payload: dict[str, Any] | None = None
    trust_remote_code: bool = False
    processor: str | None = None
    _store: Store = field(init=False, repr=False)
    _maker: PayloadMaker | None = field(init=False, repr=False, default=None)

    def __getstate__(self) -> dict[str, Any]:
        names = (
            "sources",
            "plan",
            "rule",
            "write_plan",
            "format",
            "tar_media",
            "share_media",
            "compress",
            "media",
            "payload",
            "trust_remote_code",
            "processor",
        )
        return {name: getattr(self, name) for name in names}

    def before_fork(self) -> dict[str, str]:
        """See `engine.tasks.Job`; nothing."""
        return {}

    def setup(self) -> None:
        """See `engine.tasks.Job`."""
        self._store = open_joined(self.sources, stage="tokenize")
        if self.media == "pixels" and self.payload is not None:
            one_thread()
            record = from_named_place(
                self._store.folder,
                self._store.manifest.processor,
                self.processor,
                trust_remote_code=self.trust_remote_code,
            )
            runtime: ProcessorRecord = {**record, "payload": self.payload}
            maker = PixelMaker(runtime, trust_remote_code=self.trust_remote_code)
            self._maker = PayloadMaker(maker, self.payload, [tensor["name"] for tensor in self._tensors])

    def run(self, task: Task, shards: Path, heartbeat: Heartbeat) -> Record:
        """See `engine.tasks.Job`."""
        if task.split == PLAN_SPLIT:
            return self._plan_record(task, shards)
        rank = int(task.split.removeprefix("rank_"))
        numbers = self.plan.packs_of(rank)[task.start : task.stop]
        documents = tokens = 0
        media: Counter[str] = Counter()
        infos: list[ShardInfo] = []
        position = 0
        while position < len(numbers):
            with self._writer(shards / f"task-{task.index:06d}-{len(infos):03d}") as writer:
                while position < len(numbers) and writer.bytes < SHARD_BYTES:
                    heartbeat(task.start + position)
                    pack = self._assemble(numbers[position], media)
                    length = len(pack["input_ids"])
                    writer.write(pack, size=_size(pack), tokens=length)
                    documents, tokens, position = documents + len(pack["seq_lens"]), tokens + length, position + 1
                heartbeat(NO_ROW)
                infos.append(writer.commit())
                if isinstance(writer, ShardWriter):
                    media.update(writer.shared.counts())
        counts = {
            "rows_in": documents,
            "rows_written": documents,
            "rows_rejected": 0,
            "tokens": tokens,
            "packs": len(numbers),
            **media,
        }
        return Record(task=task.index, split=task.split, shards=tuple(infos), counts=counts)

    def fault_of(self, task: Task, poison: Poison) -> str:
        """See `engine.tasks.Job`; packs are copies of checked shards: one that cannot be made is no fault of a row."""
        numbers = self.plan.packs_of(int(task.split.removeprefix("rank_")))
        names = ", ".join(self._store.row(int(row))["sample_id"] for row in self.plan.pack(numbers[poison.row]))
        return f"{self._store.folder}: making the pack of {names} {poison.message}"

    def _writer(self, path: Path) -> ShardWriter | TarWriter:
        if self.format == "webdataset":
            return TarWriter(path.with_suffix(".tar"), separate=self.tar_media == "separate")
        names = self._store.shards[0].schema.names
        beside = [name for name in BESIDE if name in names]
        schema = packed_schema(self._tensors, positions=self._positions, weights=LOSS_WEIGHTS in names, beside=beside)
        share = self.share_media == "shard"
        return ShardWriter(path.with_suffix(".arrow"), schema, share=share, compress=self.compress)

    @property
    def _positions(self) -> str:
        if self.rule is None:
            return "plain"
        return "mrope float" if self.rule.scheme == "qwen3_omni_moe" else "mrope"

    @property
    def _tensors(self) -> list[TensorRecord]:
        return self._store.manifest.processor["tensors"]

    def _assemble(self, number: int, counts: Counter[str]) -> dict[str, Any]:
        """Return a pack; add to the task's counts of media."""
        documents = [self._store.row(int(row)) for row in self.plan.pack(number)]
        if self.media is not None:
            documents = [self._raised(document, self.media, counts) for document in documents]
        try:
            return assemble_pack(documents, number, self.rule, [tensor["name"] for tensor in self._tensors])
        except ValueError as error:
            names = ", ".join(document["sample_id"] for document in documents)
            raise StoreError(f"{self._store.folder}: positions of {names}: {error}", "tokenize again") from error

    def _raised(self, document: dict[str, Any], mode: MediaMode, counts: Counter[str]) -> dict[str, Any]:
        """Return a document with its media in a higher payload; the tensors of some are compared: of one in a hundred,
        and of the first few of each task.

        Raises:
            StoreError: a media is gone or was changed since it was tokenized: its row was accepted, so this is no
                fault of the row.
            ExactnessError: what is stored does not give the processor's tensors.
        """
        media = document["media"]
        if not media:
            return document
        try:
            raised = raise_media(media, mode, self._maker)
            few = counts["pixels_compared"] < _COMPARED_FIRST
            if self._maker is not None and (few or is_chosen(document["sample_id"])):
                different = self._maker.same_as_made(media, raised)
                if different is not None:
                    raise ExactnessError(
                        f"{document['sample_id']}: {different}", "nothing of this run should be trained on; report it"
                    )
                counts["pixels_compared"] += 1
        except Reject as reject:
            raise StoreError(
                f"{document['sample_id']}: {reject.message}",
                "restore the file and run the same command again, or tokenize again: the row is then rejected",
            ) from reject
        exact = sum(is_exact(struct["tensors"]) for struct in raised)
        if exact:
            counts["media_exact"] += exact
        return {**document, "media": raised}

    def _plan_record(self, task: Task, shards: Path) -> Record:
        too_long = zip(self.plan.too_long, self.plan.too_long_in, strict=True)
        rejects = tuple(self._too_long(int(row), name) for row, name in too_long)
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

    def _too_long(self, index: int, name: str) -> Rejected:
        row = self._store.row(index)
        length = len(row["input_ids"])
        reason = RejectReason.LONGER_THAN_PACK
        if name == KINDS_APART:
            reason = RejectReason.UNSUPPORTED_MEDIA
            message = "it has kinds of media, alone or with what it is kept together with, that the model cannot read "
            message += "in one batch"
        elif name == "tokens":
            message = f"{length} tokens, a pack holds {self.plan.pack_length}"
        else:
            message = f"more {name.replace('audio_ms', 'audio')} than a pack holds (pack_{name.removesuffix('_ms')})"
        return Rejected(
            sample_id=row["sample_id"],
            dataset=row["dataset"],
            source=folder_of(self._store, index).name,
            line=index,
            stage=STAGE,
            reason=reason.value,
            message=message,
            kept=row.get(KEPT, ""),
        )


def _size(pack: dict[str, Any]) -> int:
    weights = 4 * len(pack.get(LOSS_WEIGHTS, ()))
    return int(8 * len(pack["input_ids"]) + weights + np.asarray(pack["position_ids"]).nbytes + 256)
