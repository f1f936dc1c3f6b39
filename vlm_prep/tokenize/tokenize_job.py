"""Tokenizing a range of rows into shards: what a worker does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Encoded, Media, Rejected, Sample, rejected
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.tasks import NO_ROW, Poison, Pulse, Record, Task, no_pulse
from vlm_prep.ingest.source import Samples, read_task
from vlm_prep.ingest.unread_keys import UNREAD, Unread, count_unread
from vlm_prep.media.decode import media_struct
from vlm_prep.media.files import digest_ends, ends_of
from vlm_prep.media.probe import Probed, probe
from vlm_prep.media.rules import MediaRules, rules_of
from vlm_prep.processors.expansion import as_reject
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.processors.payload.maker import PayloadMaker
from vlm_prep.processors.payload.stored import is_exact
from vlm_prep.shards.reader import ShardReader
from vlm_prep.shards.schema import tokenized_schema
from vlm_prep.shards.shared import payload_bytes
from vlm_prep.shards.writer import SHARD_BYTES, ShardInfo, ShardWriter
from vlm_prep.tokenize.encoder import Payload, SampleEncoder
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.recipe import FEW_ROWS, VARIABLE, Facts, Recipe, facts_of, made_for
from vlm_prep.tokenize.verify.choose import ROWS_PER_KIND, check_row, is_chosen, media_kind
from vlm_prep.tokenize.verify.real_processor import Oracle

STAGE = "tokenize"
STARTUP_PER_KIND = 2
MOST_BYTES = (1 << 31) - (64 << 20)
"""Of a row's media: a column of Arrow's binary holds 2 GiB a record batch, and one may hold 16 MiB of other rows."""
EXTRA_DOCUMENTS = "extra_documents"
"""Count of the documents that rows gave beyond one each."""


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

    @property
    def recipe(self) -> Recipe:
        """What is needed beside rows."""
        fast = len(self.samples) > FEW_ROWS
        return Recipe(processor=self.processor, config=self.config, fast=fast, payload=self.payload)

    def before_fork(self) -> dict[str, str]:
        """See `engine.tasks.Job`."""
        text = self.recipe.to_text()
        return {} if text is None else {VARIABLE: text}

    def facts(self, task: Task, shards: Path, pulse: Pulse) -> Facts:
        """Return what the run must know of the processor; an errand, so that the run itself need not load it."""
        return facts_of(self.encoder, self.payload)

    def run(self, task: Task, shards: Path, pulse: Pulse) -> Record:
        """See `engine.tasks.Job`."""
        tally = Tally()
        tensors = [asdict(tensor) for tensor in self.encoder.adapter.geometry]
        schema = tokenized_schema(tensors, weights=self.config.loss_weights)
        writer = _TaskWriter(task.index, shards, schema)
        with writer:
            for number, result in self.encoded(task, pulse, tally.unread):
                if isinstance(result, Rejected):
                    tally.reject(result)
                else:
                    row = row_of(result)
                    chosen = is_chosen(result.sample_id, self.config.verify_fraction)
                    tally.wrote(result, row, (number, *writer.write(row, result)), chosen=chosen)
            pulse(NO_ROW)
            infos = writer.close()
        tally.count(media_shared=writer.shared_media, media_shared_bytes=writer.shared_bytes)
        for number, shard, index in tally.chosen:
            pulse(number)
            row = ShardReader(shards / infos[shard].name, infos[shard]).row(index)
            tally.checked.update(check_row(self.oracle, row))
        return tally.record(task, infos)

    def blame(self, task: Task, poison: Poison) -> str | None:
        """See `engine.tasks.Job`; rows can be rejected."""
        return None

    def results(self, start: int, stop: int) -> Iterator[Encoded | Rejected]:
        """Yield the outputs of each row in [start, stop): its documents, mostly one, or its reject."""
        for _, result in self.encoded(Task(index=0, start=start, stop=stop), no_pulse):
            yield result

    def encoded(
        self, task: Task, pulse: Pulse, unread: Unread | None = None
    ) -> Iterator[tuple[int, Encoded | Rejected]]:
        """Yield (number, output) for each output of each row of a task, see `results`.

        Keys that nobody reads are added to `unread`.
        """
        for number, item in read_task(self.samples, task, pulse, STAGE):
            if isinstance(item, Rejected):
                yield number, item
                continue
            if unread is not None:
                count_unread(unread, item.dataset, item.unread)
            try:
                sample, payload = self._probe(item, decode=self._decodes(item))
                # all of them, before the first is written: a row is written or rejected
                documents = [self._with_tensors(encoded) for encoded in self.encoder.documents(sample, payload)]
            except Reject as reject:
                yield number, rejected(item, STAGE, reject)
                continue
            for encoded in documents:
                yield number, encoded

    def check_start(self, task: Task, shards: Path, pulse: Pulse) -> None:
        """Compare the first rows of each kind of media, before the long run starts.

        Raises:
            ExactnessError: a row differs from the real processor's output.
        """
        seen: Counter[str] = Counter()
        for _, result in self.encoded(task, pulse):
            if isinstance(result, Encoded) and self.config.verify_fraction > 0:
                row = row_of(result)
                if seen[media_kind(row["media"])] < STARTUP_PER_KIND:
                    seen.update(check_row(self.oracle, row))

    def check_written(self, task: Task, shards: Path, pulse: Pulse, path: Path, info: ShardInfo, index: int) -> Any:
        """Compare a row that was written; return what to count, see `check_row`."""
        pulse(task.start)
        return check_row(self.oracle, ShardReader(path, info).row(index))

    def _with_tensors(self, encoded: Encoded) -> Encoded:
        """Put the processor's tensors in the place of media files, for payload `pixels`.

        Raises:
            Reject: a media does not decode, the processor raises on it, or a row's media are more than a cell holds.
        """
        if self.maker is not None and encoded.media:
            with as_reject("the processor cannot take these media"):
                tensors = self.maker.tensors([media_struct(item) for item in encoded.media])
            media = [
                replace(item, data=None, tensors=tuple(made)) for item, made in zip(encoded.media, tensors, strict=True)
            ]
            encoded = replace(encoded, media=tuple(media))
        size = sum(payload_bytes(media_struct(item)) for item in encoded.media)
        if size > MOST_BYTES:
            raise Reject(
                RejectReason.PAYLOAD_TOO_LARGE,
                f"its media take {size:,} bytes, a row holds {MOST_BYTES:,}; --media reference holds none",
            )
        return encoded

    def _decodes(self, sample: Sample) -> bool:
        """Whether the sample's pictures are decoded: rows that will be compared are, so damage inside is a reject."""
        if self.config.media == "pixels":
            return False  # all media are decoded, to make their tensors
        return self.config.check_media == "decode" or is_chosen(sample.sample_id, self.config.verify_fraction)

    def _probe(self, sample: Sample, *, decode: bool) -> tuple[Sample, Payload]:
        probed = [self._probe_media(media, decode=decode) for media in sample.media]
        if not probed:
            return sample, ()
        return replace(sample, media=tuple(media for media, _ in probed)), tuple(data for _, data in probed)

    @cached_property
    def _rules(self) -> MediaRules:
        return rules_of(self.config, self.samples.data_files)

    def _probe_media(self, media: Media, *, decode: bool) -> Probed:
        config = self.config
        keep = config.media != "reference"
        track = config.audio_in_video and media.kind == "video"
        known = media.header
        if known is not None and not keep and not decode and not track:
            return media, None  # probed by ingest
        found, data = probe(
            media,
            keep_bytes=keep,
            decode=decode,
            track=track,
            rules=self._rules,
        )
        if known is not None and data is not None:
            now = tuple(digest_ends(ends_of(content)) for content in data)
            if now != known.digests:
                raise Reject(RejectReason.MEDIA_CHANGED, f"{media.uris[0]} was changed after it was ingested")
        return found, data


def row_of(encoded: Encoded) -> dict[str, Any]:
    """Return the columns of a tokenized store for an encoded sample."""
    return {
        "sample_id": encoded.sample_id,
        "dataset": encoded.dataset,
        "input_ids": encoded.input_ids,
        "labels": encoded.labels,
        **({} if encoded.loss_weights is None else {"loss_weights": encoded.loss_weights}),
        **encoded.geometry,
        "media": [media_struct(item) for item in encoded.media],
        "conversation": encoded.conversation.decode(),
    }


class _TaskWriter:
    """The shards of one task: a new one each 256 MiB."""

    def __init__(self, task: int, folder: Path, schema: Any) -> None:
        self._task, self._folder, self._schema = task, folder, schema
        self._writer: ShardWriter | None = None
        self._rows = 0
        self._infos: list[ShardInfo] = []
        self.shared_media = self.shared_bytes = 0
        """Media that stand with an earlier row of their shard, and what they would have taken."""

    def __enter__(self) -> _TaskWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.__exit__(*exc)

    def write(self, row: dict[str, Any], encoded: Encoded) -> tuple[int, int]:
        """Write a row; return (shard number in the task, row in it)."""
        if self._writer is None:
            name = f"task-{self._task:06d}-{len(self._infos):03d}.arrow"
            self._writer, self._rows = ShardWriter(self._folder / name, self._schema), 0
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
        self.shared_media += writer.shared.media
        self.shared_bytes += writer.shared.bytes
        self._writer = None

    def close(self) -> list[ShardInfo]:
        """Commit the last shard and return all."""
        if self._writer is not None:
            self._commit(self._writer)
        return self._infos


class Tally:
    """Counts of one task, and which of its rows are to be compared."""

    def __init__(self) -> None:
        self.rejects: list[Rejected] = []
        self.chosen: list[tuple[int, int, int]] = []
        self._counts: Counter[str] = Counter(rows_in=0, rows_written=0, rows_rejected=0, tokens=0, trained_tokens=0)
        self._datasets: dict[str, Counter[str]] = {}
        self._kinds: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self._spare: dict[str, list[list[int]]] = {}
        self.unread: Unread = {}

    def reject(self, rejected: Rejected) -> None:
        """Count a row that was not written."""
        self.rejects.append(rejected)
        for counts in (self._counts, self._dataset(rejected.dataset)):
            counts.update(rows_in=1, rows_rejected=1)

    def wrote(self, encoded: Encoded, row: dict[str, Any], place: tuple[int, int, int], *, chosen: bool) -> None:
        """Count a document that was written, and with a row's first one the row; `place` is the row's number, the
        document's shard in the task, and its row there."""
        tokens, trained = len(encoded.input_ids), int(np.count_nonzero(encoded.labels != IGNORE))
        kinds = Counter(f"{item.kind}s" for item in encoded.media)
        for counts in (self._counts, self._dataset(encoded.dataset)):
            if encoded.document == 1:
                counts.update(rows_in=1, rows_written=1, **dict.fromkeys(encoded.notes, 1))
            else:
                counts[EXTRA_DOCUMENTS] += 1
            counts["tokens"] += tokens
            counts["trained_tokens"] += trained
            counts.update({"images": 0, "videos": 0, **kinds})
        exact = sum(is_exact(item.tensors) for item in encoded.media)
        self.count(media_exact=exact)
        kind = media_kind(row["media"])
        self._kinds[kind] += 1
        if chosen:
            self.chosen.append(place)
        elif len(spare := self._spare.setdefault(kind, [])) < ROWS_PER_KIND:
            spare.append(list(place))

    def count(self, **numbers: int) -> None:
        """Add to the counts, of what there is any."""
        self._counts.update({name: number for name, number in numbers.items() if number})

    def _dataset(self, name: str) -> Counter[str]:
        return self._datasets.setdefault(name, Counter(rows_in=0, rows_written=0, rows_rejected=0))

    def record(self, task: Task, infos: list[ShardInfo]) -> Record:
        """Return the task's record."""
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
                UNREAD: self.unread,
            },
        )
