"""Canonical JSON and content digests: the identity of inputs, settings and outputs.

A fingerprint covers content (bytes of inputs, settings, versions), never paths, times or worker counts, so that the
same work has the same identity on every machine. Digests are xxh3-128 (12 GB/s a core; it guards against accidents,
not against an attacker).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import xxhash

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
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return f"xxh3:{state.hexdigest()}"
