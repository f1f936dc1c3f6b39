"""Looking at sampled rows: what a worker of `vlm-prep plan` does.

Rows are tokenized by the job of `tokenize` itself into real shards, which are measured and thrown away. So sizes,
lengths, rejects and comparisons with the real processor are those of a run, and so is the supervision: a row that
crashes or hangs is a reject here, too. Times are CPU seconds of the worker, so that other work on the machine or a
slow disk does not count.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.tasks import NO_ROW, Heartbeat, Record, Task
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.shards.reader import ShardReader
from vlm_prep.tokenize.boxes import looks_like_boxes
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.tokenize_job import TokenizeJob
from vlm_prep.tokenize.verify.choose import ROWS_PER_KIND, media_kind
from vlm_prep.tokenize.verify.real_processor import Comparison, Oracle
from vlm_prep.tokenize.verify.real_processor import Row as StoredRow

COLD_ROWS = 128
"""Rows that warm a worker up: the tokenizer's cache of words fills, files come into the system's cache."""


@dataclass(kw_only=True)
class Clock:
    """Seconds that something took, and how often it was done."""

    times: int = 0
    cpu: float = 0.0
    wall: float = 0.0

    def __enter__(self) -> Clock:
        self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        cpu, wall = self._began
        self.times += 1
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def add(self, other: Clock) -> None:
        """Count what another one measured, too."""
        self.times, self.cpu, self.wall = self.times + other.times, self.cpu + other.cpu, self.wall + other.wall

    @property
    def mean(self) -> float:
        """CPU seconds each."""
        return self.cpu / self.times if self.times else 0.0


@dataclass(kw_only=True)
class Survey:
    """What was seen of some sampled rows."""

    rows: int = 0
    """Looked at, rejects included."""
    documents: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(documents,) which of the written rows each document is of, from 0."""
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(documents,) tokens."""
    trained: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(documents,) trained tokens."""
    bytes: NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))
    """(documents,) on disk; together the size of the shards."""
    heads: float = 0.0
    """Bytes of the shards that are no row's: schemas, heads of batches."""
    shared: int = 0
    """Bytes that were not written because a row before in the same shard holds them."""
    boxes: int = 0
    """Documents with answers that look like boxes."""
    rejects: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Documents of each kind of media, as `tokenize` counts them."""
    seconds: NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))
    """(rows,) CPU time of each."""
    tokenizing: Clock = field(default_factory=Clock)
    """All rows, with the writing and closing of shards, without comparisons."""
    cold: Clock = field(default_factory=Clock)
    """The same rows in a worker that has done nothing yet, without writing."""
    compared: dict[str, Clock] = field(default_factory=dict)
    """{kind of media: comparisons with the real processor}."""
    setup: Clock = field(default_factory=Clock)
    """Loading the processor and making the encoder."""

    @property
    def written(self) -> int:
        """Rows that were written."""
        return int(self.documents[-1]) + 1 if len(self.documents) else 0

    def by_row(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return (written,) the sum over each row's documents."""
        return np.bincount(self.documents, values, minlength=self.written).astype(np.float64)

    def fitting(self, max_length: int) -> NDArray[np.bool_]:
        """Return (written,) whether all documents of a row have at most `max_length` tokens."""
        fit = np.ones(self.written, np.bool_)
        fit[self.documents[self.lengths > max_length]] = False
        return fit


def merged(surveys: Iterable[Survey]) -> Survey:
    """Return what was seen of the rows of several surveys, in their order."""
    found = list(surveys)
    whole = Survey(rows=sum(each.rows for each in found), heads=sum(each.heads for each in found))
    whole.shared = sum(each.shared for each in found)
    begins = np.cumsum([0, *(each.written for each in found)])
    whole.documents = _joined([each.documents + begin for each, begin in zip(found, begins, strict=False)])
    whole.lengths = _joined([each.lengths for each in found])
    whole.trained = _joined([each.trained for each in found])
    whole.bytes = _joined([each.bytes for each in found])
    whole.seconds = _joined([each.seconds for each in found])
    for each in found:
        whole.rejects.update(each.rejects)
        whole.kinds.update(each.kinds)
        whole.boxes += each.boxes
        whole.tokenizing.add(each.tokenizing)
        whole.cold.add(each.cold)
        whole.setup.add(each.setup)
        for kind, clock in each.compared.items():
            whole.compared.setdefault(kind, Clock()).add(clock)
    return whole


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(0)


@dataclass
class SurveyJob(TokenizeJob):
    """Looks at rows as a run with other settings would see them; its own settings are where it begins."""

    _loaded: tuple[ProcessorConfig, LoadedProcessor] | None = field(default=None, init=False, repr=False)
    _job: TokenizeJob | None = field(default=None, init=False, repr=False)

    def before_fork(self) -> dict[str, str]:
        """See `engine.tasks.Job`; nothing: how long loading takes is looked at, too."""
        return {}

    def setup(self, loaded: LoadedProcessor | None = None) -> None:
        """See `engine.tasks.Job`; processors are loaded as assignments ask for them."""

    def survey(self, task: Task, shards: Path, heartbeat: Heartbeat, config: TokenizeConfig, compare: bool) -> Survey:
        """Tokenize rows, measure what was written, and delete it.

        Args:
            task: the rows.
            shards: a folder for what is written meanwhile.
            heartbeat: see `engine.tasks.Job`.
            config: settings, without a limit of the length.
            compare: compare rows of every kind of media with the real processor, to know what that costs; without it
                only those that the settings choose.
        """
        found = Survey(rows=len(task.numbers))
        job = self._job_with(config, task, heartbeat, found)
        oracle = job.oracle = _TimedOracle(job, found.compared)
        folder = Path(tempfile.mkdtemp(dir=shards))
        try:
            watch = _Stopwatch(heartbeat)
            with found.tokenizing:
                record = job.run(task, folder, watch)
            found.tokenizing.cpu -= oracle.total.cpu
            found.tokenizing.wall -= oracle.total.wall
            found.tokenizing.times = found.rows
            found.seconds = watch.seconds()
            if compare and config.verify_fraction > 0:
                _compare_more(job, record, folder, heartbeat)
            _measure(record, folder, found)
        finally:
            shutil.rmtree(folder)
        return found

    def _job_with(self, config: TokenizeConfig, task: Task, heartbeat: Heartbeat, found: Survey) -> TokenizeJob:
        """Return the job of a run with these settings; the last one is kept, and is warm."""
        if self._job is not None and self._job.config == config:
            return self._job
        self._job = None
        if self._loaded is None or self._loaded[0] != config.processor:
            self._loaded = None
            job = TokenizeJob(self.samples, self.processor, config)
            with found.setup:
                self._loaded = config.processor, job.load()
                job.setup(self._loaded[1])
        else:
            job = TokenizeJob(self.samples, self.processor, config)
            job.setup(self._loaded[1])
        first = Task(index=task.index, start=task.start, stop=task.stop, only=tuple(task.numbers[:COLD_ROWS]))
        with found.cold:
            for _ in job.encoded(first.without(task.poison), heartbeat):
                pass
        heartbeat(NO_ROW)
        found.cold.times = len(first.numbers)
        self._job = job
        return job


class _TimedOracle(Oracle):
    """Compares, and measures how long that takes."""

    def __init__(self, job: TokenizeJob, spent: dict[str, Clock]) -> None:
        super().__init__(job.encoder, job.config, job.payload)
        self._spent = spent
        self.total = Clock()

    def compare(self, row: StoredRow) -> Comparison:
        with self.total, self._spent.setdefault(media_kind(row["media"]), Clock()):
            return super().compare(row)


class _Stopwatch:
    """Passes the heartbeat on, and notes when each row began and the last one ended."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat, self._times, self._over = heartbeat, [time.process_time()], False

    def __call__(self, row: int) -> None:
        self._heartbeat(row)
        if not self._over:  # after the rows come those that are compared
            self._times.append(time.process_time())
            self._over = row == NO_ROW

    def seconds(self) -> NDArray[np.float64]:
        """Return (rows,) the time between them; what came before the first row is little and left out."""
        return np.diff(self._times[1:])


def _compare_more(job: TokenizeJob, record: Record, folder: Path, heartbeat: Heartbeat) -> None:
    """Compare rows of the kinds of media of which few were chosen, as a run does at its end."""
    done = Counter(record.facts["checked"])
    for kind, places in record.facts["spare"].items():
        for number, shard, index in places[: max(0, ROWS_PER_KIND - done[kind])]:
            info = record.shards[shard]
            alone = Task(index=record.task, start=number, stop=number + 1)
            job.check_written(alone, folder, heartbeat, folder / info.name, info, index)
    heartbeat(NO_ROW)


def _shows_boxes(conversation: str) -> bool:
    """Whether an answer of a stored conversation holds what looks like boxes or points."""
    if "box" not in conversation and "point" not in conversation:
        return False
    said = (each["content"] for each in orjson.loads(conversation)["messages"] if each["role"] == "assistant")
    texts = (part.get("text", "") for each in said for part in (each if isinstance(each, list) else [{"text": each}]))
    return any(looks_like_boxes(str(text)) for text in texts)


def _measure(record: Record, folder: Path, found: Survey) -> None:
    """Read back what was written of the rows."""
    found.rejects.update(reject.reason for reject in record.rejects)
    found.kinds.update(record.facts["kinds"])
    found.shared = record.counts.get("media_shared_bytes", 0)
    names: list[str] = []
    lengths, trained, sizes = [], [], []
    for info in record.shards:
        reader = ShardReader(folder / info.name, info)
        for number in range(len(info.batches)):
            batch = reader.batch(number)
            names += batch.column("sample_id").to_pylist()
            labels = batch.column("labels")
            lengths += batch.column("input_ids").value_lengths().to_pylist()
            ends = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy(zero_copy_only=False) != IGNORE)])
            trained += np.diff(ends[labels.offsets.to_numpy() - labels.offsets[0].as_py()]).tolist()
            found.boxes += sum(map(_shows_boxes, batch.column("conversation").to_pylist()))
            sizes += [batch.slice(row, 1).nbytes for row in range(batch.num_rows)]
        reader.close()
    rows = [name.rpartition("~")[0] if "/" not in name.rpartition("~")[2] else name for name in names]
    changes = [before != row for before, row in zip(["", *rows], rows, strict=False)]
    found.documents = np.cumsum(changes, dtype=np.int64) - 1
    found.lengths, found.trained = np.array(lengths, np.int64), np.array(trained, np.int64)
    on_disk = sum(info.bytes for info in record.shards)
    found.bytes = np.array(sizes, np.float64) * (on_disk / sum(sizes) if sizes else 1)
    found.heads = float(on_disk - sum(sizes))
