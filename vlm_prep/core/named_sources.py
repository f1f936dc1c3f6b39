"""Sources that are named and not lie at a path: `preset:NAME[=path]`, `hf:owner/name[@revision]`, `mock:rows=8`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from vlm_prep.core.remote import is_remote

_NAMED: Final = re.compile(r"(preset|hf|mock):")
_OF_HUB: Final = re.compile(
    r"(?:hf:|https?://[^/]+/datasets/)(?P<said>[\w.-]+/[\w.-]+)(?:[/?#@].*)?|(?P<bare>[\w-][\w.-]*/[\w-]+)",
    re.IGNORECASE,
)


def is_named(source: object) -> bool:
    """Whether a source is named; a file of such a name is meant by `./hf:...`."""
    return isinstance(source, str) and _NAMED.match(source) is not None


def is_placed(source: object) -> bool:
    """Whether a source means the same from every folder: a name, or an address on an object store."""
    return is_named(source) or is_remote(source)


def meant_by(source: str) -> str | None:
    """Return what to write in place of a source that is not there and looks like a set of the hub; None for others."""
    found = _OF_HUB.fullmatch(source)
    if found is None or (found["bare"] and os.path.isdir(found["bare"].partition("/")[0])):
        return None
    return f"A dataset of the hub is hf:{found['said'] or found['bare']}."


def settled(source: str, folder: str | Path = "") -> str:
    """Return a named source that means the same from every folder: the path in `preset:NAME=path` made absolute."""
    head, equals, path = source.partition("=")
    if not source.startswith("preset:") or not equals or is_placed(path):
        return source
    return f"{head}={os.path.abspath(os.path.join(folder, os.path.expanduser(path)))}"


def source_stem(source: str | Path) -> str:
    """Return the name that a source gives to what is made of it."""
    if not is_named(source):
        return Path(str(source).rstrip("/") if is_remote(source) else os.path.abspath(source)).stem
    scheme, _, rest = str(source).partition(":")
    if scheme == "mock":
        return "mock"
    return rest.partition("=" if scheme == "preset" else "@")[0].rpartition("/")[2]
