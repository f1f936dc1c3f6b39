"""What differs between two stores: rows that only one has, and rows that both have and in what they differ.

Rows are matched by sample_id, the n-th of a name with the n-th. Of packs the documents are compared, wherever they were
put. A row's media are compared by kind, digests, sizes, frames and tensors, not by where their files lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import changes
from vlm_prep.report.found_rows import all_rows
from vlm_prep.shards.reader import Store

Name = tuple[str, int]
"""A row's sample_id, and how many rows of this name stand before it."""
_OF_MEDIA = (
    *("kind", "height", "width", "scaled", "frame_list", "frame_indices", "fps", "total_frames", "samples"),
    "segment",
)
_NOT_COMPARED = frozenset({"sample_id", "source", "line"})


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What differs between store A and store B."""

    rows: tuple[int, int]
    """Rows, or documents, of each."""
    settings: list[str]
    """Settings and processors that differ."""
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    differing: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """(sample_id, what differs) of the rows that both have."""
    in_order: bool = True
    """Whether the rows that both have stand in the same order."""

    @property
    def same(self) -> bool:
        """Whether both hold the same rows in the same order; settings may differ."""
        return not (self.only_a or self.only_b or self.differing) and self.in_order

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "same": self.same,
            "rows": list(self.rows),
            "settings": self.settings,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "differing": [{"sample_id": name, "in": list(what)} for name, what in self.differing],
            "differing_in": dict(Counter(each for _, what in self.differing for each in what).most_common()),
            "in_order": self.in_order,
        }


def differences(a: Store, b: Store) -> Differences:
    """Compare two stores of ingest, tokenize or pack.

    Raises:
        StoreError: one is of samples and the other of tokens.
    """
    tokens = [store.manifest.stage != "ingest" for store in (a, b)]
    if tokens[0] != tokens[1]:
        raise StoreError(f"{a.folder} and {b.folder} are stores of different stages", "give two of one stage")
    seen = _digests(a)
    names_b: list[Name] = []
    only_b: list[str] = []
    differing: list[tuple[str, tuple[str, ...]]] = []
    for name, parts in _named(b):
        mine = seen.get(name)
        if mine is None:
            only_b.append(name[0])
            continue
        names_b.append(name)
        if mine != parts:
            what = tuple(each for each in sorted({*mine, *parts}) if mine.get(each) != parts.get(each))
            differing.append((name[0], what))
    both = set(names_b)
    return Differences(
        rows=(len(seen), len(names_b) + len(only_b)),
        settings=_settings(a, b),
        only_a=[name[0] for name in seen if name not in both],
        only_b=only_b,
        differing=differing,
        in_order=[name for name in seen if name in both] == names_b,
    )


def _settings(a: Store, b: Store) -> list[str]:
    one, other = ({"config": each.manifest.config, "processor": each.manifest.processor} for each in (a, b))
    return [line.replace(" then, ", " in A, ").removesuffix(" now") + " in B" for line in changes(one, other)]


def _digests(store: Store) -> dict[Name, dict[str, int]]:
    return dict(_named(store))


def _named(store: Store) -> Iterator[tuple[Name, dict[str, int]]]:
    counts: Counter[str] = Counter()
    for found in all_rows(store):
        name = found.row["sample_id"]
        yield (name, counts[name]), _parts(found.row)
        counts[name] += 1


def _parts(row: Mapping[str, Any]) -> dict[str, int]:
    """Return the digest of each column of a row that holds something."""
    found: dict[str, int] = {}
    for name, value in row.items():
        if name in _NOT_COMPARED or value is None or (hasattr(value, "__len__") and not len(value)):
            continue
        data = _media(value) if name == "media" and not isinstance(value, str) else _bytes(value)
        found[name] = xxhash.xxh3_64_intdigest(data)
    return found


def _bytes(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    return repr(value).encode(errors="surrogatepass")


def _media(structs: Any) -> bytes:
    pieces = []
    for struct in structs:
        pieces += [_bytes(struct.get(name)) for name in _OF_MEDIA]
        pieces += [str(file["digest"]).encode() for file in struct["files"]]
        for tensor in struct["tensors"] or ():
            data = tensor["data"]
            pieces += [str(tensor["name"]).encode(), b"" if data is None else np.asarray(data).tobytes()]
    return b"\x00".join(pieces)
