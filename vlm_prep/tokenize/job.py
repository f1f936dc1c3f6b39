"""Tokenizing a range of rows into shards: what a worker does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.config import TokenizeConfig
from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.types import Encoded, Media, Rejected, Sample, rejected
from vlm_prep.engine.tasks import Progress, Record, Task
from vlm_prep.ingest.source import Samples
from vlm_prep.media.files import digest_ends, ends_of
from vlm_prep.media.load import media_struct
from vlm_prep.media.probe import Probed, probe
from vlm_prep.processors.families import adapter_for
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.shards.reader import ShardReader
from vlm_prep.shards.schema import tokenized_schema
from vlm_prep.shards.writer import SHARD_BYTES, ShardInfo, ShardWriter
from vlm_prep.tokenize.encoder import Payload, SampleEncoder
from vlm_prep.tokenize.expand import IGNORE
from vlm_prep.tokenize.oracle import Oracle
from vlm_prep.tokenize.verify import ROWS_PER_KIND, check_row, is_chosen, media_kind

STAGE = "tokenize"
PROGRESS_ROWS = 32


@dataclass
class TokenizeJob:
    """Tokenizes ranges of `samples`.

    Args:
        samples: the source.
        processor: name of the processor.
        config: settings.
    """

    preload: ClassVar[tuple[str, ...]] = ("vlm_prep.processors.preload",)
    samples: Samples
    processor: str
    config: TokenizeConfig
    encoder: SampleEncoder = field(init=False, repr=False)
    oracle: Oracle = field(init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"samples": self.samples, "processor": self.processor, "config": self.config}

    def load(self) -> LoadedProcessor:
        """Load the processor with this job's settings."""
        return load_processor(self.processor, self.config.processor)

    def setup(self, loaded: LoadedProcessor | None = None) -> None:
        """See `engine.tasks.Job`."""
        import torch

        torch.set_num_threads(1)
        self.encoder = SampleEncoder(adapter_for(loaded or self.load()), self.config)
        self.oracle = Oracle(self.encoder, self.config)

    def run(self, task: Task, shards: Path, progress: Progress) -> Record:
        """See `engine.tasks.Job`."""
        tally = Tally()
        tensors = [asdict(tensor) for tensor in self.encoder.adapter.geometry]
        writer = _TaskWriter(task.index, shards, tokenized_schema(tensors))
        with writer:
            for result in self.results(task.start, task.stop):
                if isinstance(result, Rejected):
                    tally.reject(result)
                else:
                    row = row_of(result)
                    place = writer.write(row, result)
                    tally.wrote(result, row, place, chosen=is_chosen(result.sample_id, self.config.verify_fraction))
                tally.report(progress)
            infos = writer.close()
        tally.report(progress, last=True)
        for shard, index in tally.chosen:
            row = ShardReader(shards / infos[shard].name, infos[shard]).row(index)
            tally.checked.update(check_row(self.oracle, row))
        return tally.record(task, infos)

    def results(self, start: int, stop: int) -> Iterator[Encoded | Rejected]:
        """Yield one output for each row in [start, stop): encoded, or rejected with its reason."""
        for item in self.samples.read(start, stop):
            if isinstance(item, Rejected):
                yield item
                continue
            try:
                sample, payload = self._probe(item, decode=self._decodes(item))
                yield self.encoder.encode(sample, payload)
            except Reject as reject:
                yield rejected(item, STAGE, reject)

    def _decodes(self, sample: Sample) -> bool:
        """Whether the sample's pictures are decoded: rows that will be compared are, so damage inside is a reject."""
        return self.config.check_media == "decode" or is_chosen(sample.sample_id, self.config.verify_fraction)

    def _probe(self, sample: Sample, *, decode: bool) -> tuple[Sample, Payload]:
        probed = [self._probe_media(media, decode=decode) for media in sample.media]
        if not probed:
            return sample, ()
        return replace(sample, media=tuple(media for media, _ in probed)), tuple(data for _, data in probed)

    def _probe_media(self, media: Media, *, decode: bool) -> Probed:
        config = self.config
        keep = config.media == "encoded"
        track = config.audio_in_video and media.kind == "video"
        known = media.header
        if known is not None and not keep and not decode and not track:
            return media, None  # probed by ingest
        found, data = probe(media, keep_bytes=keep, decode=decode, max_pixels=config.max_image_pixels, track=track)
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
        data = sum(len(content) for item in encoded.media for content in item.data or ())
        size = 8 * len(encoded.input_ids) + len(encoded.conversation) + data + 256
        self._writer.write(row, size=size, tokens=len(encoded.input_ids))
        place = len(self._infos), self._rows
        self._rows += 1
        if self._writer.bytes >= SHARD_BYTES:
            self._infos.append(self._writer.commit())
            self._writer = None
        return place

    def close(self) -> list[ShardInfo]:
        """Commit the last shard and return all."""
        if self._writer is not None:
            self._infos.append(self._writer.commit())
            self._writer = None
        return self._infos


class Tally:
    """Counts of one task, and which of its rows are to be compared."""

    def __init__(self) -> None:
        self.rejects: list[Rejected] = []
        self.chosen: list[tuple[int, int]] = []
        self._counts: Counter[str] = Counter(rows_in=0, rows_written=0, rows_rejected=0, tokens=0, trained_tokens=0)
        self._datasets: dict[str, Counter[str]] = {}
        self._kinds: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self._spare: dict[str, list[list[int]]] = {}
        self._seen: Counter[str] = Counter()

    def reject(self, rejected: Rejected) -> None:
        """Count a row that was not written."""
        self.rejects.append(rejected)
        for counts in (self._counts, self._dataset(rejected.dataset)):
            counts.update(rows_in=1, rows_rejected=1)

    def wrote(self, encoded: Encoded, row: dict[str, Any], place: tuple[int, int], *, chosen: bool) -> None:
        """Count a row that was written at `place`."""
        tokens, trained = len(encoded.input_ids), int(np.count_nonzero(encoded.labels != IGNORE))
        kinds = Counter(f"{item.kind}s" for item in encoded.media)
        for counts in (self._counts, self._dataset(encoded.dataset)):
            counts["rows_in"] += 1
            counts["rows_written"] += 1
            counts["tokens"] += tokens
            counts["trained_tokens"] += trained
            counts.update({"images": 0, "videos": 0, **kinds})
        kind = media_kind(row["media"])
        self._kinds[kind] += 1
        if chosen:
            self.chosen.append(place)
        elif len(spare := self._spare.setdefault(kind, [])) < ROWS_PER_KIND:
            spare.append(list(place))

    def _dataset(self, name: str) -> Counter[str]:
        return self._datasets.setdefault(name, Counter(rows_in=0, rows_written=0, rows_rejected=0))

    def report(self, progress: Progress, *, last: bool = False) -> None:
        """Tell the progress what is new, every few rows."""
        names = ("rows_in", "tokens", "rows_rejected")
        if not last and self._counts["rows_in"] - self._seen["rows_in"] < PROGRESS_ROWS:
            return
        new = [self._counts[name] - self._seen[name] for name in names]
        if new[0]:
            progress(*new)
            self._seen.update(dict(zip(names, new, strict=True)))

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
            },
        )
