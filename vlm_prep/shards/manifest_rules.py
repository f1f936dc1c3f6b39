"""What must hold of a manifest before anything is done with what it says.

A manifest is somebody else's word: damaged by a disk, edited, or made to harm. Every reader checks types, ranges, sums
and names when it reads one (0.1 s for 10,000 shards), so that nothing behind it meets a row count of -5 or 10**15, an
offset outside of the shard or a name outside of the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NoReturn

from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.typed_json import require_typed
from vlm_prep.shards.manifest_records import CertificateRecord, PlanRecord, ProofRecord, UnreadRecord
from vlm_prep.shards.store_names import is_shard, is_split, is_store_name

MOST = (1 << 63) - 1
MOST_RANKS = 99_999
"""Folders of ranks have five digits."""
_DIGEST = re.compile(r"xxh3:[0-9a-f]{32}")
_HEAD = re.compile(r"[0-9a-f]{16}")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_LEAST_BYTES_OF_ROW = 4
"""A row takes an offset in each list or text of its table, and a tar's much more; compressed, a byte of all of them."""
_END_BYTES = 8
_TEXT_KEYS = ("stage", "fingerprint")
_TABLE_KEYS = ("config", "totals", "processor", "proof", "identity", "extra", "splits", "files")
_OF_PROCESSOR = {"whole", "identity", "parts", "interleaved", "tensors", "sampling_rate"}
"""What readers that make tensors need of it."""
_TABLES_OF_TOTALS = ("rejects", "kinds", "datasets", "earlier", "packs_by_rank", "unread_keys")
_ACCOUNTS = ("rows_in", "rows_written", "rows_rejected")


def check_manifest(data: Mapping[str, Any]) -> None:
    """Check the JSON of a manifest.

    Raises:
        ValueError: something of it cannot be; what and where is said.
    """
    for key in _TEXT_KEYS:
        _must(isinstance(data.get(key, ""), str), key, "is no text")
    for key in _TABLE_KEYS:
        _must(isinstance(data.get(key, {}), dict), key, "is no table")
    _must(_WORD.fullmatch(data["stage"]) is not None, "stage", "is no name of a stage")
    for number, count in enumerate(_list(data.get("tasks", []), "tasks")):
        _count(count, f"tasks[{number}]")
    for number, poison in enumerate(_list(data.get("poison", []), "poison")):
        _poison(poison, f"poison[{number}]")
    for split, shards in data["splits"].items():
        _must(is_split(split), "splits", f"has a folder {split!r}, a name that no split has")
        names = [_shard(shard, f"splits.{split}[{number}]") for number, shard in enumerate(_list(shards, split))]
        _must(len(set(names)) == len(names), f"splits.{split}", "names a shard twice")
    for name, about in data.get("files", {}).items():
        _must(is_store_name(name) and not is_shard(name.rpartition("/")[2]), "files", f"names {name!r}")
        _count(about["bytes"], f"files.{name}.bytes")
        _digest(about["xxh3"], f"files.{name}.xxh3")
    _totals(data["totals"])
    _config(data.get("config", {}))
    _extra(data.get("extra", {}))
    if data.get("proof"):
        require_typed(data["proof"], ProofRecord, "proof")
    _processor(data.get("processor", {}), needed=data["stage"] in ("tokenize", "pack"))
    if data["stage"] == "pack":
        _must("world_size" in data.get("config", {}), "config.world_size", "is missing")
        _must(data["extra"]["layout"] in ("ranks", "index"), "extra.layout", "is none")
        _must(data["extra"]["layout"] == "ranks" or "source" in data["extra"], "extra.source", "is missing")


def check_shard(shard: Any, where: str) -> None:
    """Check what is said of a shard, its name aside; see `check_manifest`."""
    _must(isinstance(shard, dict), where, "is no table")
    rows, size = _count(shard["rows"], f"{where}.rows"), _count(shard["bytes"], f"{where}.bytes")
    _count(shard["tokens"], f"{where}.tokens")
    _digest(shard["xxh3"], f"{where}.xxh3")
    compressed = shard.get("compressed", False)
    _must(isinstance(compressed, bool), f"{where}.compressed", f"is {compressed!r}")
    least = 1 if compressed else _LEAST_BYTES_OF_ROW
    _must(rows <= size // least, f"{where}.rows", f"is {rows}: more than {size} bytes hold")
    batches = _list(shard["batches"], f"{where}.batches")
    offsets = [_batch(pair, f"{where}.batches[{number}]") for number, pair in enumerate(batches)]
    starts = [*(offset for offset, _ in offsets), max(0, size - _END_BYTES)]
    for number, (start, stop) in enumerate(pairwise(starts)):
        count = offsets[number][1]
        _must(
            0 < start < stop and start % 8 == 0 and count <= (stop - start) // least,
            f"{where}.batches[{number}]",
            f"says {count} rows at byte {start} of {size}, before byte {stop}",
        )
    if batches or str(shard["name"]).endswith(".arrow"):
        total = sum(count for _, count in offsets)
        _must(total == rows, f"{where}.batches", f"have {total} rows together, the shard {rows}")
    heads = _list(shard.get("heads", []), f"{where}.heads")
    _must(not heads or len(heads) == len(batches) + 1, f"{where}.heads", "are not one for the schema and each batch")
    for head in heads:
        _must(isinstance(head, str) and _HEAD.fullmatch(head) is not None, f"{where}.heads", f"holds {head!r}")


def _shard(shard: Any, where: str) -> str:
    _must(isinstance(shard, dict), where, "is no table")
    name = shard["name"]
    _must(is_shard(name), f"{where}.name", f"is {name!r}: no name of a shard")
    check_shard(shard, where)
    return str(name)


def _batch(pair: Any, where: str) -> tuple[int, int]:
    _must(isinstance(pair, list) and len(pair) == 2, where, "is no (offset, rows)")
    return _count(pair[0], where), _count(pair[1], where)


def _poison(poison: Any, where: str) -> None:
    _must(isinstance(poison, dict) and poison.keys() == {"row", "reason", "message"}, where, "is no row")
    _count(poison["row"], f"{where}.row")
    _must(isinstance(poison["reason"], str) and isinstance(poison["message"], str), where, "has no reason")


def _totals(totals: Mapping[str, Any]) -> None:
    """Check the accounts; a store that was made by a program may have none."""
    if not totals:
        return
    for key in _ACCOUNTS:
        _count(totals[key], f"totals.{key}")
    _must(
        totals["rows_in"] == totals["rows_written"] + totals["rows_rejected"],
        "totals",
        "has other rows in than rows written plus rows rejected",
    )
    _counts(totals["rejects"], "totals.rejects")
    for key, value in totals.items():
        if key not in _TABLES_OF_TOTALS:
            _amount(value, f"totals.{key}")
    _counts(totals.get("kinds", {}), "totals.kinds")
    require_typed(totals.get("unread_keys", {}), dict[str, dict[str, UnreadRecord]], "totals.unread_keys")
    for key in ("packs_by_rank", "fill") if "packs" in totals else ():
        _must(key in totals, f"totals.{key}", "is missing")
    datasets = totals.get("datasets", {})
    _must(isinstance(datasets, dict), "totals.datasets", "is no table")
    for name, counts in datasets.items():
        _must(isinstance(counts, dict), f"totals.datasets.{name}", "is no table")
        for key in ("rows_in", "rows_written"):
            _must(key in counts, f"totals.datasets.{name}.{key}", "is missing")
        for key, count in counts.items():
            _amount(count, f"totals.datasets.{name}.{key}")
    for number, earlier in enumerate(_list(totals.get("earlier", []), "totals.earlier")):
        _must(isinstance(earlier, dict) and _is_word(earlier["stage"]), f"totals.earlier[{number}]", "has no stage")
        _totals({**{key: value for key, value in earlier.items() if key != "stage"}, "earlier": []})
    for number, count in enumerate(_list(totals.get("packs_by_rank", []), "totals.packs_by_rank")):
        _count(count, f"totals.packs_by_rank[{number}]")


def _config(config: Mapping[str, Any]) -> None:
    _count(config.get("world_size", 1), "config.world_size", least=1, most=MOST_RANKS)
    _count(config.get("pack_length", 1), "config.pack_length", least=1, most=1 << 31)


def _extra(extra: Mapping[str, Any]) -> None:
    _must(isinstance(extra.get("mix", {}), dict), "extra.mix", "is no table")
    for key, kind in (("plan", PlanRecord), ("certificate", CertificateRecord)):
        if extra.get(key):
            require_typed(extra[key], kind, f"extra.{key}")
    for key in ("mix_file", "source", "source_fingerprint", "layout", "format"):
        _must(isinstance(extra.get(key, ""), str), f"extra.{key}", "is no text")
    sources = _list(extra.get("sources", []), "extra.sources")
    _must(all(isinstance(each, str) for each in sources), "extra.sources", "are no texts")
    _count(extra.get("updates", 0), "extra.updates")
    _must(isinstance(extra.get("updated", ""), str), "extra.updated", "is no text")
    for pair in _list(extra.get("rows", []), "extra.rows"):
        start, stop = _batch(pair, "extra.rows")
        _must(start <= stop, "extra.rows", f"has rows {start} to {stop}")
    for number, retry in enumerate(_list(extra.get("retries", []), "extra.retries")):
        where = f"extra.retries[{number}]"
        _must(isinstance(retry, dict), where, "is no table")
        for key in ("rows", "tasks"):
            for count in _list(retry[key], f"{where}.{key}"):
                _count(count, f"{where}.{key}")


def _processor(processor: Mapping[str, Any], *, needed: bool) -> None:
    if missing := needed and _OF_PROCESSOR - processor.keys():
        _fail("processor", f"has no {', '.join(sorted(missing))}")
    require_typed(processor, ProcessorRecord, "processor", some=True)
    for number, tensor in enumerate(processor.get("tensors", [])):
        where = f"processor.tensors[{number}]"
        _must(_is_word(tensor["name"]), where, "has no name")
        for size in tensor["shape"]:
            _count(size, where, most=1 << 20)
    for kind, part in processor.get("parts", {}).items():
        _must(_is_word(part["part_class"]), f"processor.parts.{kind}", "names no class")


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _counts(value: Any, where: str) -> None:
    _must(isinstance(value, dict), where, "is no table")
    for name, count in value.items():
        _count(count, f"{where}.{name}")


def _count(value: Any, where: str, *, least: int = 0, most: int = MOST) -> int:
    if type(value) is not int or not least <= value <= most:
        _fail(where, f"is {_shown(value)}: not a whole number from {least} to {most}")
    return value


def _amount(value: Any, where: str) -> None:
    """Check a count, or seconds or a share, which are no whole numbers."""
    if type(value) is float:
        _must(0 <= value < float("inf"), where, f"is {value}")
        return
    _count(value, where)


def _digest(value: Any, where: str) -> None:
    _must(isinstance(value, str) and _DIGEST.fullmatch(value) is not None, where, f"is {_shown(value)}: no checksum")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        _fail(where, "is no list")
    return value


def _must(holds: bool, where: str, what: str) -> None:
    if not holds:
        _fail(where, what)


def _fail(where: str, what: str) -> NoReturn:
    raise ValueError(f"{where[:200]} {what}")


def _shown(value: Any) -> str:
    return repr(value)[:60]
