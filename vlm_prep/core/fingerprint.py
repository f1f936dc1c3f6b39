"""Canonical JSON and content digests: the identity of inputs, settings and outputs.

A fingerprint covers content (bytes of inputs, settings, versions), never paths, times or worker counts, so that the
same work has the same identity on every machine. Digests are xxh3-128 (12 GB/s a core; it guards against accidents,
not against an attacker).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import xxhash

from vlm_prep.core.regular_files import open_regular

_CHUNK = 8 << 20


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON bytes with sorted keys and no blanks; the same value gives the same bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest_bytes(data: bytes | memoryview) -> str:
    """Return the xxh3-128 of `data` as `xxh3:<32 hex digits>`."""
    return f"xxh3:{xxhash.xxh3_128_hexdigest(data)}"


def digest_json(value: Any) -> str:
    """Return the digest of `value`'s canonical JSON."""
    return digest_bytes(canonical_json(value))


def digest_file(path: str | Path) -> str:
    """Return the digest of a file's bytes, read in 8 MiB pieces."""
    state = xxhash.xxh3_128()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return f"xxh3:{state.hexdigest()}"


def changes(then: Any, now: Any) -> list[str]:
    """Return what differs between two identities, a line for each leaf: `config.max_length: 8192 then, 4096 now`."""
    before, after = dict(_leaves(then)), dict(_leaves(now))
    return [
        f"{name}: {_shown(before, name)} then, {_shown(after, name)} now"
        for name in sorted({*before, *after})
        if before.get(name, _ABSENT) != after.get(name, _ABSENT)
    ]


_ABSENT = object()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _shown(leaves: dict[str, Any], name: str) -> str:
    return repr(leaves[name]) if name in leaves else "absent"
