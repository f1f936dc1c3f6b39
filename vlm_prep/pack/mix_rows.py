"""A mix resolved: the rows of its stores that it takes, by number, without copying any.

    filters → duplicates → similar pictures → held-out side → as many rows of each store as asked for

What is drawn depends on the seed, on the fingerprint of each store and on its place in the file; rows of a store
are in its order, those that are taken more than once pass after pass. Ten million rows are numbers of 8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.sides import bounds_of, is_between, own_name
from vlm_prep.pack.mix_file import MixFile, Part, read_mix
from vlm_prep.pack.mix_filter import rows_where
from vlm_prep.shards.joined import JoinedStore, PickedStore, open_stores
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.object_store import store_path
from vlm_prep.shards.reader import Store

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TakenPart:
    """What a mix takes of a store."""

    store: str
    rows: int
    """That the store has."""
    filtered: int
    """That its filter takes."""
    unique: int
    """That are left without duplicates, and on the side of the split that is taken."""
    taken: int
    """With repeats."""
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return vars(self).copy()


def open_mix(path: str | Path, *, verify: bool = False) -> PickedStore:
    """Open a mix as a store of the rows that it takes.

    Raises:
        InputError: the file is not usable, a filter asks for what is not there, or nothing is taken.
        StoreError: a store is unfinished, damaged, or of another processor than the first.
    """
    mix = read_mix(path)
    stores = open_stores([part.store for part in mix.parts], stage="tokenize", verify=verify)
    base = JoinedStore(stores)
    index, parts = _resolved(mix, base)
    made_of = {"mix": mix.settings(), "stores": [store.manifest.fingerprint for store in stores]}
    if others := [read_manifest(store_path(other)).fingerprint for part in mix.parts for other in part.not_rejected_in]:
        made_of["not_rejected_in"] = others
    fingerprint = digest_json(made_of)
    totals = {
        **base.manifest.totals,
        "rows_in": len(index),
        "rows_written": len(index),
        "rows_rejected": 0,
        "rejects": {},
        "tokens": sum(part.tokens for part in parts),
    }
    told = {"settings": mix.settings(), "parts": [part.to_json() for part in parts]}
    manifest = replace(
        base.manifest, fingerprint=fingerprint, totals=totals, extra={**base.manifest.extra, "mix": told}
    )
    return PickedStore(base, index, manifest, file=mix.path)


def _resolved(mix: MixFile, base: JoinedStore) -> tuple[Numbers, list[TakenPart]]:
    begins = np.cumsum([0, *(len(part) for part in base.parts)])
    filtered = [
        _not_rejected(store, rows_where(store, part.where), part)
        for store, part in zip(base.parts, mix.parts, strict=True)
    ]
    left = _unique(mix, base, np.concatenate([rows + begin for rows, begin in zip(filtered, begins, strict=False)]))
    if mix.take is not None:
        left = left[_side(mix, base, left)]
    kept = [left[(left >= begins[n]) & (left < begins[n + 1])] - begins[n] for n in range(len(base.parts))]
    wanted = _amounts(mix, [len(rows) for rows in kept])
    index: list[Numbers] = []
    parts: list[TakenPart] = []
    lengths = base.lengths()
    for number, (rows, count) in enumerate(zip(kept, wanted, strict=True)):
        store = base.parts[number]
        seed = digest_json([mix.seed, number, store.manifest.fingerprint])
        taken = draw(rows, count, seed) + int(begins[number])
        index.append(taken)
        parts.append(
            TakenPart(
                store=str(store.folder),
                rows=len(store),
                filtered=len(filtered[number]),
                unique=len(rows),
                taken=len(taken),
                tokens=int(lengths[taken].sum()),
            )
        )
    found = np.concatenate(index)
    if not len(found):
        raise InputError(f"{mix.path}: takes no rows", "look at its filters: `vlm-prep mix` shows what each leaves")
    return found, parts


def _not_rejected(store: Store, rows: Numbers, part: Part) -> Numbers:
    """Return rows without those that other stores, of another processor or other settings, rejected."""
    if not part.not_rejected_in:
        return rows
    bad = {own_name(str(row["sample_id"])) for other in part.not_rejected_in for row in read_rejects(other)}
    names = [name for shard in store.shards for name in shard.column("sample_id").to_pylist()]
    return rows[np.fromiter((own_name(names[row]) not in bad for row in rows.tolist()), np.bool_, len(rows))]


def _amounts(mix: MixFile, have: Sequence[int]) -> list[int]:
    """Return how many rows each store gives."""
    weighted = [number for number, part in enumerate(mix.parts) if part.weight is not None]
    total = mix.rows if mix.rows is not None else sum(have[number] for number in weighted)
    weights = sum(mix.parts[number].weight or 0.0 for number in weighted)
    found = [_amount(part, rows, total, weights) for part, rows in zip(mix.parts, have, strict=True)]
    for number, count in enumerate(found):
        if count and not have[number]:
            raise InputError(f"{mix.path}: no row of {mix.parts[number].store} is left to take {count:,} from")
    return found


def _amount(part: Part, rows: int, total: int, weights: float) -> int:
    if part.count is not None:
        return part.count
    if part.ratio is not None:
        return round(rows * part.ratio)
    return round(total * part.weight / weights) if part.weight is not None else rows


def draw(rows: Numbers, count: int, seed: str) -> Numbers:
    """Return `count` of some rows, each as often as the others or once more: whole passes, then a draw in order."""
    passes, rest = divmod(count, len(rows)) if len(rows) else (0, 0)
    found = [rows] * passes
    if rest:
        keys = np.random.PCG64(xxhash.xxh3_64_intdigest(seed.encode())).random_raw(len(rows))
        chosen = np.argpartition(keys, rest - 1)[:rest]
        found.append(np.sort(rows[chosen]))
    return np.concatenate([*found, np.empty(0, np.int64)]).astype(np.int64)


# ---- duplicates ----


def _unique(mix: MixFile, base: JoinedStore, rows: Numbers) -> Numbers:
    """Return rows without those that have the content, or nearly a picture, of an earlier one."""
    if mix.drop_duplicates:
        rows = rows[_first_of_each(_contents(base, rows))]
    if mix.similar_pictures is not None:
        from vlm_prep.pack.similar_pictures import unlike_rows

        rows = unlike_rows(base, rows, mix.similar_pictures)
    return rows


def _first_of_each(keys: Iterator[bytes]) -> NDArray[np.bool_]:
    seen: set[bytes] = set()
    found = []
    for key in keys:
        found.append(key not in seen)
        seen.add(key)
    return np.array(found, np.bool_)


def _contents(base: Store, rows: Numbers) -> Iterator[bytes]:
    """Yield a digest of each row's ids, labels and media contents."""
    for number in rows.tolist():
        row = base.row(number, ("conversation", "kept"))
        state = xxhash.xxh3_128(row["input_ids"].tobytes())
        state.update(row["labels"].tobytes())
        for struct in row["media"]:
            for file in struct["files"]:
                state.update(str(file["digest"]).encode())
            state.update(repr((struct.get("segment"), struct.get("frame_indices"))).encode())
        yield state.digest()


# ---- held-out side ----


def _side(mix: MixFile, base: JoinedStore, rows: Numbers) -> NDArray[np.bool_]:
    """Return whether each row is on the side of the split that is taken, see `core.sides`."""
    bounds = bounds_of(mix.split, str(mix.take))
    names = np.array([name for shard in base.shards for name in shard.column("sample_id").to_pylist()], object)[rows]
    return np.fromiter((is_between(bounds, name) for name in names), np.bool_, len(rows))


def mix_text(store: PickedStore) -> str:
    """Return what a mix takes, as text for a terminal."""
    told = store.manifest.extra["mix"]
    lines = [f"{store.file}: {len(store):,} rows, {store.manifest.totals['tokens']:,} tokens"]
    lines.append(f"  {'rows':>12} {'filtered':>12} {'unique':>12} {'taken':>12} {'tokens':>14}  store")
    columns = ("rows", "filtered", "unique", "taken")
    for part in told["parts"]:
        counts = " ".join(f"{part[name]:>12,}" for name in columns)
        lines.append(f"  {counts} {part['tokens']:>14,}  {part['store']}")
    return "\n".join(lines)
