"""Tokenizing a range of rows into shards: what a worker does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Encoded, Rejected, Sample, rejected
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.stored_media import without_files
from vlm_prep.engine.accounts import check_first_rows
from vlm_prep.engine.tasks import NO_ROW, Heartbeat, Poison, Record, Task, no_heartbeat
from vlm_prep.ingest.some_samples import keeps_columns
from vlm_prep.ingest.source import Samples, read_task
from vlm_prep.ingest.unread_keys import Unread, count_unread
from vlm_prep.processors.expansion import as_reject
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.processors.payload.maker import PayloadMaker
from vlm_prep.shards.reader import ShardReader
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.shared import payload_bytes
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.overlong_audio import OverlongClips
from vlm_prep.tokenize.probe_rows import RowProbe
from vlm_prep.tokenize.recipe import FEW_ROWS, VARIABLE, ProcessorFindings, Recipe, findings_of, made_for
from vlm_prep.tokenize.row_facts import ROWS, CopiedDocument, RowFacts
from vlm_prep.tokenize.row_facts import row_of as row_of
from vlm_prep.tokenize.task_output import Tally, TaskWriter, schema_for
from vlm_prep.tokenize.verify.asking import DIFFERS, Asking, asked_of
from vlm_prep.tokenize.verify.choose import UNREADABLE, check_row, is_chosen
from vlm_prep.tokenize.verify.claimed import BEGINNING, ClaimedShapes, TaskComparisons
from vlm_prep.tokenize.verify.raw_rows import require_own_words
from vlm_prep.tokenize.verify.real_processor import Oracle
from vlm_prep.tokenize.verify.shapes import Shape, blamed_shape, shapes_of

STAGE = "tokenize"
STARTUP_ROWS = 64
MOST_BYTES = (1 << 31) - (64 << 20)
"""Of a row's media: a column of Arrow's binary holds 2 GiB a record batch, and one may hold 16 MiB of other rows."""


@dataclass
class TokenizeJob:
    """Tokenizes ranges of `samples`.

    Args:
        samples: the source.
        processor: name of the processor.
        config: settings.
    """

    preload: ClassVar[tuple[str, ...]] = ("vlm_prep.tokenize.before_fork",)
    samples: Samples
    processor: str
    config: TokenizeConfig
    payload: dict[str, Any] | None = None
    """How media become tensors, see `maker.make`; found by the first `setup`, for all workers."""
    encoder: SampleEncoder = field(init=False, repr=False)
    maker: PayloadMaker | None = field(init=False, repr=False)
    oracle: Oracle = field(init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("samples", "processor", "config", "payload")}

    def load(self) -> LoadedProcessor:
        """Load the processor with this job's settings."""
        return load_processor(self.processor, self.config.processor)

    def setup(self, loaded: LoadedProcessor | None = None) -> None:
        """See `engine.tasks.Job`."""
        made = made_for(self.recipe, loaded)
        self.encoder, self.maker, self.oracle = made.encoder, made.maker, made.oracle
        self.payload = made.payload
        self._believed: set[Shape] = set()
        self._equal: set[int] = set()
        self._unsure: set[int] = set()

    @property
    def recipe(self) -> Recipe:
        """What is needed beside rows."""
        fast = len(self.samples) > FEW_ROWS
        return Recipe(processor=self.processor, config=self.config, fast=fast, payload=self.payload)

    def before_fork(self) -> dict[str, str]:
        """See `engine.tasks.Job`."""
        text = self.recipe.to_text()
        return {} if text is None else {VARIABLE: text}

    def findings(self, task: Task, shards: Path, heartbeat: Heartbeat) -> ProcessorFindings:
        """Return what the run must know of the processor; an assignment, so that the run itself need not load it."""
        return findings_of(self.encoder, self.payload)

    def run(self, task: Task, shards: Path, heartbeat: Heartbeat) -> Record:
        """See `engine.tasks.Job`."""
        refused: dict[int, Reject] = {}
        shapes: dict[Shape, int] = {}
        while True:
            record, found = self._attempt(task, shards, heartbeat, refused, shapes)
            if not found:
                return record
            # rows of the compared share that the real processor cannot take: the task is done again without them
            refused |= found
            for info in record.shards:
                (shards / info.name).unlink()

    def _attempt(
        self,
        task: Task,
        shards: Path,
        heartbeat: Heartbeat,
        refused: Mapping[int, Reject],
        refused_shapes: dict[Shape, int],
    ) -> tuple[Record, dict[int, Reject]]:
        """Do a task; return its record, and the rows of it that the real processor raised on."""
        tally, facts = Tally(self.encoder.is_media), RowFacts(self.samples.data_files)
        compared = TaskComparisons(ClaimedShapes(shards), self._believed)
        schema = schema_for(self.encoder.adapter, self.config, kept=keeps_columns(self.samples))
        writer = TaskWriter(task.index, shards, schema, self.config)
        with writer:
            for number, result in self.encoded(task, heartbeat, tally.unread, refused, facts):
                if isinstance(result, Rejected):
                    tally.reject(result)
                    facts.rejects(number)
                    continue
                row = row_of(result)
                facts.writes(number, result)
                place = number, *writer.write(row, result)
                chosen = is_chosen(result.sample_id, self.config.verify_fraction)
                if self.config.verify_fraction > 0:
                    for shape in shapes_of(result):
                        tally.firsts.setdefault(shape, number)
                if isinstance(result, CopiedDocument):  # it was compared when it was written first, or not
                    tally.checked.update(result.compared)
                    facts.was_compared(number, result.compared)
                    chosen = False
                elif self.config.verify_fraction > 0 and compared.takes(place, result, tally.firsts, chosen=chosen):
                    require_own_words(self.samples, number, result, self.encoder.template)
                tally.wrote(result, row, place, spare=not chosen)
            heartbeat(NO_ROW)
            infos = writer.close()
        tally.count(**writer.shared)
        found: dict[int, Reject] = {}
        for number, shape, counts in compared.compare(self.oracle, shards, infos, heartbeat):
            if isinstance(counts, Reject):
                found[number] = counts
                refused_shapes.setdefault(shape, number)
            else:
                tally.checked.update(counts)
                facts.was_compared(number, counts)
        tally.refused |= refused_shapes
        record = tally.record(task, infos, compared.equal(self._equal))
        return replace(record, facts={**record.facts, ROWS: facts.to_json(task)}), found

    def fault_of(self, task: Task, poison: Poison) -> str | None:
        """See `engine.tasks.Job`; rows can be rejected."""
        return None

    def results(self, start: int, stop: int) -> Iterator[Encoded | Rejected]:
        """Yield the outputs of each row in [start, stop): its documents, mostly one, or its reject."""
        for _, result in self.encoded(Task(index=0, start=start, stop=stop), no_heartbeat):
            yield result

    def encoded(
        self,
        task: Task,
        heartbeat: Heartbeat,
        unread: Unread | None = None,
        refused: Mapping[int, Reject] | None = None,
        facts: RowFacts | None = None,
        *,
        compare: bool = False,
        believing: bool = False,
        claims: ClaimedShapes | None = None,
    ) -> Iterator[tuple[int, Encoded | Rejected]]:
        """Yield (number, output) for each output of each row of a task, see `results`.

        Args:
            task: the rows.
            heartbeat: told of each row.
            unread: keys that nobody reads are added to it.
            refused: rows that are known to be rejects.
            facts: told of each row before its media are read.
            compare: compares the first rows of new shapes at once, see `_believe`.
            believing: rejects those that the real processor cannot take.
            claims: told of those.
        """
        task, asked = asked_of(task, refused)
        for number, item in read_task(self.samples, task, heartbeat, STAGE):
            if isinstance(item, Rejected):
                yield number, item
                continue
            if unread is not None:
                count_unread(unread, item.dataset, item.unread)
            if facts is not None:
                facts.begins(number, item)
            try:
                if refused and number in refused and number not in asked:
                    raise refused[number]
                documents = None if number in asked else self.stored(number, item)
                if documents is None:
                    documents = self._made(item, asking=number in asked)
                    if number in asked:
                        self._equal.add(number)
                    elif compare and self.config.verify_fraction > 0:
                        documents = self._believed_or_asked(item, documents, number, claims, raises=believing)
            except Reject as reject:
                yield number, rejected(item, STAGE, reject)
                continue
            for encoded in documents:
                yield number, encoded

    def stored(self, number: int, sample: Sample) -> Sequence[Encoded] | None:
        """Return the documents of a row that are known already (`UpdateJob`), None where they are to be made."""
        return None

    def _made(self, item: Sample, *, asking: bool = False) -> Sequence[Encoded]:
        """Return the documents of a row: all of them, before the first is written, for a row is written or rejected."""
        sample, payload = self._clips.fitted(*self._media.probed(item))
        encoder = self._asking.encoder if asking else self.encoder
        made = [self._with_tensors(encoded) for encoded in encoder.documents(sample, payload)]
        return [self._asking.settled(encoded) for encoded in made] if asking else made

    @cached_property
    def _asking(self) -> Asking:
        return Asking(self.encoder, self.oracle)

    def _believed_or_asked(
        self, item: Sample, documents: Sequence[Encoded], number: int, claims: ClaimedShapes | None, *, raises: bool
    ) -> Sequence[Encoded]:
        """Return documents that `_believe` believes, or those that the processor was asked for in their place."""
        try:
            for encoded in documents:
                self._believe(encoded, number, claims, raises=raises)
        except Reject as reject:
            if reject.reason is not DIFFERS:
                raise
            return self._made(item, asking=True)
        return documents

    def check_start(self, task: Task, shards: Path | None, heartbeat: Heartbeat, limit: float = 1.0) -> list[int]:
        """Compare the first row of each shape among the first rows, before a long run.

        Args:
            task: the rows.
            shards: where the workers of the run write, who are told what is compared here; None tells nobody.
            heartbeat: told of each row.
            limit: the share of rows that may be rejected.

        Returns:
            The rows that were compared and are equal.

        Raises:
            ExactnessError: a row differs from the real processor's output.
            FirstRowsError: most of the first rows are rejected for one reason.
        """
        claims = None if shards is None else ClaimedShapes(shards)
        results = self.encoded(task, heartbeat, compare=True, believing=True, claims=claims)
        check_first_rows((result for _, result in results), limit)
        return sorted(self._equal - self._unsure)

    def refused_rows(
        self, task: Task, shards: Path, heartbeat: Heartbeat, shapes: Container[Shape] | None = None
    ) -> list[tuple[int, Shape, RejectReason, str]]:
        """Return the rows of a task that the real processor cannot take, each with the shape to blame and why.

        With `shapes`, only rows with these to blame are compared.

        Raises:
            ExactnessError: a row differs from the real processor's output.
        """
        found = []
        for number, result in self.encoded(task, heartbeat):
            if isinstance(result, Encoded) and (shapes is None or blamed_shape(result) in shapes):
                try:
                    check_row(self.oracle, row_of(result))
                except Reject as reject:
                    found.append((number, blamed_shape(result), reject.reason, reject.message))
        return found

    def _believe(self, encoded: Encoded, number: int, claims: ClaimedShapes | None, *, raises: bool) -> None:
        """Compare a document whose shape this process has not compared yet, so that a run which must stop stops early.

        Raises:
            ExactnessError: it differs from the real processor's output.
            Reject: the real processor cannot take it, if `raises`.
        """
        shapes = {*shapes_of(encoded)}
        if shapes <= self._believed:
            return
        if claims is not None:
            claims.claim(BEGINNING, shapes - self._believed)
        try:
            compared = check_row(self.oracle, row_of(encoded))
            require_own_words(self.samples, number, encoded, self.encoder.template)
        except Reject:
            if claims is not None:
                claims.leave(BEGINNING, shapes - self._believed)
            if raises:
                raise
            self._believed |= shapes
            return
        if not compared[UNREADABLE]:
            self._believed |= shapes
            self._equal.add(number)
            return
        self._unsure.add(number)
        if claims is not None:
            claims.leave(BEGINNING, shapes - self._believed)

    def check_written(
        self, task: Task, shards: Path, heartbeat: Heartbeat, path: Path, info: ShardInfo, index: int
    ) -> tuple[Counter[str], Reject | None]:
        """Compare a written row; return what to count, see `check_row`, and why the processor cannot take it."""
        heartbeat(task.start)
        if task.poison:  # it ended the worker that compared it, and its task is done again without it
            return Counter({UNREADABLE: 1}), None
        try:
            return check_row(self.oracle, ShardReader(path, info).row(index)), None
        except Reject as reject:
            return Counter({UNREADABLE: 1}), reject

    def _with_tensors(self, encoded: Encoded) -> Encoded:
        """Put the processor's tensors in the place of media files, for payload `pixels`.

        Raises:
            Reject: a media does not decode, the processor raises on it, or a row's media are more than a cell holds.
        """
        if self.maker is not None and encoded.media:
            with as_reject("the processor cannot take these media"):
                tensors = self.maker.tensors(encoded.media)
            media = tuple(without_files(item, made) for item, made in zip(encoded.media, tensors, strict=True))
            encoded = replace(encoded, media=media)
        size = sum(payload_bytes(item) for item in encoded.media)
        if size > MOST_BYTES:
            what = f"its media take {size:,} bytes, a row holds {MOST_BYTES:,}; --media reference holds none"
            raise Reject(RejectReason.PAYLOAD_TOO_LARGE, what)
        return encoded

    @cached_property
    def _clips(self) -> OverlongClips:
        return OverlongClips(self.encoder.adapter, self.config.overlong_audio)

    @cached_property
    def _media(self) -> RowProbe:
        return RowProbe(self.config, self.samples.data_files)
