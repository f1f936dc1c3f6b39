"""The media files that ingested stores name into a media store: each content once, see `media.gathered`.

A task has some groups of files with one digest. It reads each file whole, and writes one row for each content among
them, so that nothing needs to be known of other tasks. A file that is gone or was changed since it was ingested is a
reject, named by its uri. The accounts are of contents: those written, and the files that were not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

import vlm_prep
from vlm_prep.core.errors import InputError, Reject, RejectReason, VlmPrepError
from vlm_prep.core.fingerprint import digest_bytes
from vlm_prep.core.records import Rejected
from vlm_prep.engine.accounts import check_reject_rate, reject_reasons, sum_counts
from vlm_prep.engine.stage import RunOptions, Stage, run_stage
from vlm_prep.engine.tasks import NO_ROW, Heartbeat, Poison, Record, Task, rows_per_task, split_rows
from vlm_prep.ingest.gather.media_groups import media_groups
from vlm_prep.media.files import digest_matches, read_bytes
from vlm_prep.media.gathered import hash_uri, open_media_store
from vlm_prep.shards.manifest import GATHERED, Manifest, read_manifest
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.schema import SCHEMA_VERSION
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.writer import MOST_BYTES, SHARD_BYTES, ShardWriter

SCHEMA = pa.schema(
    [
        pa.field("digest", pa.string()),
        pa.field("uris", pa.list_(pa.string())),
        pa.field("uri_hashes", pa.list_(pa.uint64())),
        pa.field("size", pa.int64()),
        pa.field("bytes", pa.binary()),
    ]
)
"""Of a media store: the digest of all bytes, the files that had them, their hashes (`media.gathered.hash_uri`), how
many bytes, and these; null where nothing referred to them any more and they were given back."""

CARD = """# Media, gathered by vlm-prep

{contents} contents of {files} files, each once. Next: `vlm-prep tokenize STORE --media reference --media-store FOLDER
--processor P --out OUT`, for any number of processors and settings.
"""


@dataclass
class GatherJob:
    """Copies contents.

    Args:
        groups: see `media_groups.media_groups`.
        known: full digests of contents that other media stores have.
    """

    preload: ClassVar[tuple[str, ...]] = (__name__,)
    groups: pa.Table
    known: frozenset[str] = field(default_factory=frozenset)

    def before_fork(self) -> dict[str, str]:
        """See `engine.tasks.Job`; nothing."""
        return {}

    def setup(self) -> None:
        """See `engine.tasks.Job`; there is nothing to load."""

    def run(self, task: Task, shards: Path, heartbeat: Heartbeat) -> Record:
        """See `engine.tasks.Job`."""
        counts: Counter[str] = Counter(rows_in=0, rows_written=0, rows_rejected=0, files=0, contents=0, media_bytes=0)
        rejects: list[Rejected] = []
        infos: list[ShardInfo] = []
        poison = {each.row: each for each in task.poison}
        writer: ShardWriter | None = None
        try:
            for number in task.numbers:
                uris = self.groups["uris"][number].as_py()
                if number in poison:
                    rejects += [_rejected(uri, poison[number].reason, poison[number].message) for uri in uris]
                    continue
                heartbeat(number)
                contents, failed = self._contents(self.groups["digest"][number].as_py(), uris)
                rejects += failed
                for digest, (named, data) in contents.items():
                    counts.update(files=len(named))
                    if digest in self.known:
                        counts["known"] += 1
                        continue
                    if writer is None:
                        writer = ShardWriter(shards / f"task-{task.index:06d}-{len(infos):03d}.arrow", SCHEMA)
                    writer.write(_row(digest, named, data), size=len(data) + 256, tokens=0)
                    counts.update(contents=1, media_bytes=len(data))
                    if writer.bytes >= SHARD_BYTES:
                        infos.append(writer.commit())
                        writer = None
            heartbeat(NO_ROW)
            if writer is not None:
                infos.append(writer.commit())
        finally:
            if writer is not None:
                writer.__exit__()
        counts.update(rows_written=counts["contents"], rows_rejected=len(rejects))
        counts["rows_in"] = counts["contents"] + len(rejects)
        return Record(
            task=task.index,
            split=task.split,
            shards=tuple(infos),
            rejects=tuple(rejects),
            counts={name: count for name, count in counts.items() if count or name.startswith("rows")},
        )

    def _contents(self, digest: str, uris: Sequence[str]) -> tuple[dict[str, tuple[list[str], bytes]], list[Rejected]]:
        """Read files with one digest: the files and the bytes of each full digest, and the rejects."""
        found: dict[str, tuple[list[str], bytes]] = {}
        rejects = []
        for uri in uris:
            try:
                data = read_bytes(uri)
                if not digest_matches(data, digest):
                    raise Reject(RejectReason.MEDIA_CHANGED, f"{uri} was changed after it was ingested")
                if len(data) > MOST_BYTES:
                    raise Reject(RejectReason.PAYLOAD_TOO_LARGE, f"{uri}: {len(data):,} bytes, a cell holds 2 GiB")
            except Reject as reject:
                rejects.append(_rejected(uri, reject.reason.value, reject.message))
                continue
            found.setdefault(digest_bytes(data), ([], data))[0].append(uri)
        return found, rejects

    def fault_of(self, task: Task, poison: Poison) -> str | None:
        """See `engine.tasks.Job`; a file that cannot be read is a reject."""
        return None


def _row(digest: str, uris: list[str], data: bytes) -> dict[str, Any]:
    hashes = np.array([hash_uri(uri) for uri in uris], np.uint64)
    return {"digest": digest, "uris": uris, "uri_hashes": hashes, "size": len(data), "bytes": data}


def _rejected(uri: str, reason: str, message: str) -> Rejected:
    return Rejected(sample_id=uri, dataset=GATHERED, source=uri, line=0, stage=GATHERED, reason=reason, message=message)


def gather(stores: Sequence[StorePath], options: RunOptions, *, known: Sequence[str] = ()) -> Manifest | None:
    """Write the media files that ingested stores name into the media store `options.out`.

    Args:
        stores: finished stores of `vlm-prep ingest`.
        options: how to run.
        known: media stores; what they have is left out.

    Returns:
        The manifest of the media store; None where only a part of the run was asked for.

    Raises:
        InputError: the stores name no files.
        StoreError: a store is not finished.
        RejectRateError: the store is complete, with too many rejects.
    """
    groups = media_groups(stores)
    if not len(groups):
        raise InputError("the rows name no media files: there is nothing to gather")
    others = [open_media_store(folder) for folder in known]
    digests = frozenset(
        digest for store in others for shard in store.shards for digest in shard.column("digest").to_pylist()
    )
    stage = Stage(
        name=GATHERED,
        identity={
            "stage": GATHERED,
            "schema": SCHEMA_VERSION,
            "vlm_prep": vlm_prep.__version__,
            "stores": [read_manifest(folder).fingerprint for folder in stores],
            "known": [store.manifest.fingerprint for store in others],
        },
        tasks=split_rows(len(groups), rows_per_task(len(groups))),
        job=GatherJob(groups, digests),
        describe=partial(_describe, sum(len(uris) for uris in groups["uris"])),
        again={"stores": [str(folder) for folder in stores], "known": list(known)},
    )
    manifest = run_stage(stage, options)
    if manifest is not None:
        check_reject_rate(manifest.totals, options)
    return manifest


def _describe(files: int, records: Sequence[Record], splits: dict[str, list[ShardInfo]]) -> tuple[Manifest, str]:
    totals: dict[str, Any] = sum_counts(records)
    if totals.get("files", 0) + totals["rows_rejected"] != files:
        raise VlmPrepError(f"{files} files named: the accounts do not add up", "this is a defect of vlm-prep")
    totals["rejects"] = reject_reasons(records)
    card = CARD.format(contents=totals.get("contents", 0), files=totals.get("files", 0))
    return Manifest(stage=GATHERED, config={}, splits=splits, totals=totals), card
