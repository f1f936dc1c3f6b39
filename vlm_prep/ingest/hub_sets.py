"""Datasets of the Hugging Face hub, `hf:owner/name[@revision]`, through the `datasets` library: its cache, its token.

The library downloads a set once and keeps it as Arrow files, which are read like all tables. Without a network its
cached copy is opened, and `HF_ENDPOINT` names a mirror. The commit of what was read is part of a run's fingerprint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.splits import Tables, tables_of

_ADDRESS: Final = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubTables:
    """A set of the hub as it lies in the library's cache."""

    folder: Path
    tables: Tables
    commit: str | None
    """The commit that the files are of, where the library says it."""


def hub_tables(address: str, subset: str | None, split: str | None) -> HubTables:
    """Download a set of the hub, or find it in the cache.

    Args:
        address: `hf:owner/name`, or with `@revision`.
        subset: its configuration; None takes the only or default one.
        split: as `datasets` writes it (`train[:1000]`, `validation+test`); None takes train, or the only one.

    Raises:
        InputError: there is no such set, or it cannot be reached.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise InputError(f"{address}: no dataset of the hub", "Write hf:owner/name, or hf:owner/name@revision.")
    import datasets

    try:
        builder = datasets.load_dataset_builder(found["name"], subset, revision=found["revision"])
        builder.download_and_prepare()
    except Exception as error:  # of the library, of the hub's client, of the network
        raise _unreachable(address, error) from error
    names = {str(name): int(info.num_examples) for name, info in (builder.info.splits or {}).items()}
    if not names:
        raise InputError(f"{address}: has no splits")
    tables = tables_of(address, split, list(names), lambda name: _files(builder, name), names.__getitem__)
    cache = Path(builder.cache_dir)
    commit = next((text for text in (builder.hash, *cache.parts) if text and _COMMIT.fullmatch(str(text))), None)
    return HubTables(cache, tables, commit)


def _files(builder: Any, split: str) -> Sequence[Path]:
    files = builder.as_dataset(split=split).cache_files
    return [Path(os.path.abspath(each["filename"])) for each in files]


def _unreachable(address: str, error: Exception) -> InputError:
    said = " ".join(str(error).split())[:400]
    hints = {
        "DatasetNotFoundError": "Check the name; a gated set needs a token (`hf auth login`, or HF_TOKEN).",
        "ConnectionError": "Check the network; HF_ENDPOINT names a mirror. What was loaded once is in its cache.",
        "OfflineModeIsEnabled": "The set is in no cache (HF_HUB_OFFLINE): load it once with a network.",
    }
    hint = hints.get(type(error).__name__, "`subset` names a configuration, `split` a split.")
    return InputError(f"{address}: {type(error).__name__}: {said}", hint)
