"""The tokenizer that writes a store's ids as text: that of `--processor`, else of the one that the store was made with.

A store names its processor, and is believed where this user's own run made it (`core.made_here`): another names any
place of this machine, or a tokenizer that shows other text than is trained. Nothing is fetched, and no code of it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlm_prep.core.errors import StoreError, VlmPrepError
from vlm_prep.core.settings import ProcessorConfig

if TYPE_CHECKING:
    from vlm_prep.report.view.shown_rows import Reader
    from vlm_prep.shards.reader import Store

BUILTIN = "builtin:"


def reader_for(store: Store, processor: str | None, config: ProcessorConfig) -> Reader:
    """Return how the ids of a store become text; without a processor that can be read here, they do not.

    Args:
        store: of any stage.
        processor: what the user names; None takes the word of the user's own store, if it names a folder that is here.
        config: settings to load it with.

    Raises:
        ProcessorError: the one that the user names does not load.
    """
    from vlm_prep.report.view.shown_rows import Reader

    name = processor or _named(store)
    if name is None:
        return Reader()
    from vlm_prep.processors.families.table import adapter_for
    from vlm_prep.processors.load import load_processor

    try:
        adapter = adapter_for(load_processor(name, config if processor else ProcessorConfig()))
    except VlmPrepError:
        if processor is not None:
            raise
        return Reader()
    return Reader(tokenizer=adapter.hf.tokenizer, media_ids=frozenset(adapter.run_ids))


def _named(store: Store) -> str | None:
    """Return the processor that a store, or the one that its packs were made of, says it was made with."""
    from vlm_prep.shards.code_place import is_own
    from vlm_prep.shards.joined import source_folders
    from vlm_prep.shards.layout import read_origin

    folder = store.folder
    if store.manifest.stage == "pack":
        folder = source_folders(folder, store.manifest)[0]
    if not isinstance(folder, Path):
        return None
    try:
        found = (read_origin(folder) or {}).get("processor")
    except StoreError:
        return None
    if not isinstance(found, str):
        return None
    return found if found.startswith(BUILTIN) or (is_own(folder, found) and Path(found).is_dir()) else None
