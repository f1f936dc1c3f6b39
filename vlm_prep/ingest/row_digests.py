"""A digest of each row of a source: of its text as it stands, and of how it is read.

Two rows with the same digest are read alike: the same columns and tags, the same media folder. A row of JSON that
may hold media itself has its place in the file in its digest, since their uris name it. Rows of Parquet and Arrow
files have the digest of their whole file and their place in it: a file that was rewritten is new, files that were
added cost nothing of the others. Of a row of 1 KB of JSON 1 µs where its digest is known, else 8, in which it is looked
through for media.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vlm_prep.core.fingerprint import canonical_json, digest_file
from vlm_prep.core.remote import cache_folder
from vlm_prep.ingest.embedded import may_embed
from vlm_prep.ingest.index import RowIndex
from vlm_prep.ingest.mock_rows import MockIndex
from vlm_prep.ingest.raw_samples import RawSamples
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.ingest.source import IngestedSamples, Samples
from vlm_prep.ingest.table_files import TableIndex
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_ledger import DIGEST_BYTES

_NOT_READING = ("rows", "picks", "sample_ratio", "limit", "side")
"""What of a data set's description says nothing of how a row is read."""
Digests = NDArray[np.uint8]


def row_digests(samples: Samples, known: Digests | None = None) -> Digests | None:
    """Return (rows, 16) the digest of each row, in order; None of a source that cannot tell.

    Args:
        samples: the source.
        known: digests that a store has of rows, of which most are expected to be these.
    """
    if isinstance(samples, RawSamples):
        held = frozenset(() if known is None else pieces_of(known))
        return _joined(_of_source(source, held) for source in samples.sources)
    if isinstance(samples, IngestedSamples):
        return _joined(_of_store(samples.store))[: len(samples)]
    return None


def sample_ids(samples: Samples) -> list[str]:
    """Return the sample_id of each row, in order."""
    if isinstance(samples, RawSamples):
        return [name for source in samples.sources for name in source.sample_ids()]
    assert isinstance(samples, IngestedSamples)
    found = [name for shard in samples.store.shards for name in shard.column("sample_id").to_pylist()]
    return found[: len(samples)]


def pieces_of(digests: Digests) -> list[bytes]:
    """Return digests one by one."""
    data = digests.tobytes()
    return [data[start : start + DIGEST_BYTES] for start in range(0, len(data), DIGEST_BYTES)]


def _joined(parts: Iterator[bytes]) -> Digests:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, DIGEST_BYTES)


def _of_source(source: RowSource, known: frozenset[bytes]) -> bytes:
    """Return the digests of a data set's picks, one after the other."""
    seed = _reading(source)
    index = source.index
    if isinstance(index, MockIndex):
        by_row = _numbered(f"{index.text}\n".encode(), len(index), seed)
    elif isinstance(index, TableIndex):
        by_row = _of_tables(index, seed)
    else:
        by_row = _of_text(source, index, seed, known)
    return by_row[source.picks].tobytes()


def _reading(source: RowSource) -> int:
    about: dict[str, Any] = {name: value for name, value in source.describe().items() if name not in _NOT_READING}
    # uris are absolute
    own = [] if _is_copy(source) else [str(source.spec.folder), str(source.spec.file)]
    about["places"] = [*own[:1], str(source.spec.media_dir), *own[1:]]
    return xxhash.xxh3_64_intdigest(canonical_json(about))


def _is_copy(source: RowSource) -> bool:
    """Whether a source's rows were written down (folders, tars), in a file with another name whenever a file of the
    source is touched."""
    return source.spec.file.is_relative_to(os.path.abspath(cache_folder()))


def _of_tables(index: TableIndex, seed: int) -> Digests:
    counts = np.diff(index.starts).tolist()
    marks = [f"{file}\n{digest_file(file)}\n".encode() for file in index.files]
    return np.concatenate([_numbered(mark, rows, seed) for mark, rows in zip(marks, counts, strict=True)])


def _numbered(mark: bytes, rows: int, seed: int) -> Digests:
    """Return the digests of rows that are what they are by their number."""
    pieces = [xxhash.xxh3_128_digest(mark + str(row).encode(), seed=seed) for row in range(rows)]
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, DIGEST_BYTES)


def _of_text(source: RowSource, index: RowIndex, seed: int, known: frozenset[bytes]) -> Digests:
    path = source.spec.text
    if not len(index):
        return np.empty((0, DIGEST_BYTES), np.uint8)
    digest = xxhash.xxh3_128_digest
    name = f"\n{source.spec.file}" if _is_copy(source) else ""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if os.fstat(file.fileno()).st_size < int(index.ends[-1]):
            return np.empty((0, DIGEST_BYTES), np.uint8)  # cut while it was read: no row is believed
        pieces = []
        for start, end in zip(index.starts.tolist(), index.ends.tolist(), strict=True):
            row = data[start:end]
            found = digest(row, seed=seed)
            # with a known digest it is a row without media: of one with media that of its place, too, is known
            if found not in known and may_embed(row):
                found = digest(row + f"{name}\n{start}".encode(), seed=seed)
            pieces.append(found)
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, DIGEST_BYTES)


def _of_store(store: Store) -> Iterator[bytes]:
    for shard in store.shards:
        for index in range(len(shard)):
            row = shard.row(index)
            yield xxhash.xxh3_128_digest("\n".join(str(value) for value in row.values()).encode(errors="surrogatepass"))
