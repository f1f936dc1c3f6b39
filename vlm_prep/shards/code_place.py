"""Whose code runs where a store's tensors are made by Python code that comes with its processor.

`trust_remote_code` says that code may run; which code, a store may not say: it names the place of its processor, and
that may be any. So the caller names it, or the store's own note says that the caller's run made it (`core.made_here`).
"""

from __future__ import annotations

import os

from vlm_prep.core.errors import StoreError
from vlm_prep.core.made_here import is_ours
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.regular_files import read_regular
from vlm_prep.shards.manifest import unsealed
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.store_names import ORIGIN_FILE


def from_named_place(
    folder: StorePath, record: ProcessorRecord, processor: str | None, *, trust_remote_code: bool
) -> ProcessorRecord:
    """Return what a store says of its processor, with the place that the caller names in place of the store's.

    Args:
        folder: the store.
        record: `processor` of its manifest.
        processor: the place that the caller names; None takes the store's, if it may.
        trust_remote_code: whether the caller lets code run.

    Raises:
        StoreError: code would run from a place that only the store names.
    """
    whole = record["whole"] if record else None
    if not whole or not trust_remote_code or not whole["config"].get("trust_remote_code"):
        return record
    if processor is not None:
        return {**record, "whole": {**whole, "name": processor}}
    if not is_own(folder, str(whole["name"])):
        raise StoreError(
            f"{folder} was not made here by you, and says that its processor, whose code would run, is {whole['name']}",
            "read that code, and give `processor`, the place of the processor whose code you trust",
        )
    return record


def is_own(folder: StorePath, processor: str) -> bool:
    """Whether this user's own run made a store with the processor at a place."""
    try:
        note = unsealed(read_regular(folder / ORIGIN_FILE))[0]
    except (OSError, ValueError):
        return False
    return is_ours(note) and note.get("processor") in (processor, os.path.abspath(processor))
