"""Datasets of the Hugging Face hub, `hf:owner/name[@revision]`, through the `datasets` library: its cache, its token.

The library downloads a set once and keeps it as Arrow files, which are read like all tables. The commit that a revision
means is asked for first, and is part of a run's fingerprint. Where the hub does not answer, what the caches of this
machine hold of that commit is opened (`hub_cache`); `HF_ENDPOINT` names a mirror.

WebDataset tars, and sounds or videos beside a metadata file, are read as such files are that lie in a folder: Arrow
files of them would be a second copy of all media, and `datasets` wants torchcodec to make one, whatever it decodes.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.derived.tar_rows import MEDIA_ENDINGS
from vlm_prep.ingest.hub_cache import MEDIA_SETS, HubCache
from vlm_prep.ingest.splits import Tables, tables_of
from vlm_prep.media.places import natural_order

_ADDRESS: Final = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_NO_SET: Final = "Check the name; a gated set needs a token (`hf auth login`, or HF_TOKEN)."
_METADATA: Final = ("metadata.jsonl", "metadata.csv")
SECONDS: Final = 10.0
"""To wait for the hub's first answer."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubTables:
    """A set of the hub as it lies in the library's cache."""

    folder: Path
    tables: Tables
    """Its tables; the files are the set's own where it is read as tars or by a metadata file."""
    commit: str
    """The commit that the files are of."""
    are_tars: bool = False
    metadata: Path | None = None
    """The table among the files that names the others."""


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
    commit = _asked_commit(address, found["name"], found["revision"])
    if commit is None:
        cache = HubCache(found["name"])
        commit = cache.commit(found["revision"])
        _LOG.info("%s is read from the cache of this machine, commit %s", address, commit)
        builder = _prepared(address, lambda: cache.builder(commit, subset))
    else:
        builder = _prepared(address, lambda: _from_hub(found["name"], subset, found["revision"]))
        if builder.hash != commit:
            raise InputError(
                f"{address}: is commit {commit} on the hub, and Hugging Face datasets opened {builder.hash}",
                f"Start again if the set has just changed; hf:{found['name']}@COMMIT names what is read.",
            )
    if (as_files := _as_files(address, builder, split, HubCache(found["name"]).snapshot(commit))) is not None:
        return as_files
    _prepared(address, builder.download_and_prepare)
    names = {str(name): int(info.num_examples) for name, info in (builder.info.splits or {}).items()}
    if not names:
        raise InputError(f"{address}: has no splits")
    tables = tables_of(address, split, list(names), lambda name: _files(builder, name), names.__getitem__)
    return HubTables(Path(builder.cache_dir), tables, commit)


def _asked_commit(address: str, name: str, revision: str | None) -> str | None:
    """Ask the hub which commit a revision is; None where there is no network.

    Raises:
        InputError: the hub answers that there is no such set or revision, or that this user may not read it.
    """
    import datasets
    from huggingface_hub import HfApi, constants

    if datasets.config.HF_HUB_OFFLINE:
        return None
    _LOG.info("asking %s for the dataset %s", constants.ENDPOINT, name)
    try:
        info = HfApi().dataset_info(name, revision=revision, timeout=SECONDS)
    except Exception as error:  # requests' or httpx's, by the version of huggingface_hub: no route, no name, a proxy
        status = getattr(getattr(error, "response", None), "status_code", 500)
        if status < 500:
            raise _unreachable(address, error) from error
        _LOG.info("%s does not answer: %s", constants.ENDPOINT, (str(error).strip().splitlines() or [""])[0][:200])
        return None
    return str(info.sha)


def _from_hub(name: str, subset: str | None, revision: str | None) -> Any:
    import datasets

    # a folder of this name in the working directory is not what is meant
    return datasets.load_dataset_builder(
        f"hf://datasets/{name}" if os.path.exists(name) else name, subset, revision=revision
    )


def _as_files(address: str, builder: Any, split: str | None, snapshot: Path) -> HubTables | None:
    """Return a set whose own files are read; None for one that is read as the tables that `datasets` makes of it.

    Args:
        address: what messages begin with.
        builder: of the set, not prepared.
        split: what is asked for.
        snapshot: the folder of the hub's cache that its files lie in.
    """
    import datasets

    if builder.name not in MEDIA_SETS:
        return None
    listed = {str(name): [str(file) for file in files] for name, files in builder.config.data_files.items()}
    are_tars = builder.name == "webdataset"
    if not are_tars and not all(map(_is_described, listed.values())):
        return None

    def fetched(name: str) -> list[Path]:
        manager = datasets.DownloadManager(dataset_name=builder.dataset_name)
        found = _prepared(address, lambda: manager.download(listed[name]))
        return [Path(os.path.abspath(file)) for file in sorted(found, key=natural_order)]

    def counted(name: str) -> int:
        raise InputError(
            f"{address}: split {split!r}: of a set of media files one whole split is read",
            "`limit` takes its first rows; write an entry of a meta JSON for each split to read several.",
        )

    tables = tables_of(address, split, list(listed), fetched, counted)
    metadata = next((file for file in tables.files if file.name in _METADATA), None)
    return HubTables(snapshot, tables, snapshot.name, are_tars, metadata)


def _is_described(files: Sequence[str]) -> bool:
    """Whether files are media beside one table that names them: archives and folders by class are not."""
    others = [file for file in files if file.rpartition(".")[2].lower() not in MEDIA_ENDINGS]
    return len(others) == 1 and others[0].rpartition("/")[2] in _METADATA


def _prepared(address: str, load: Callable[[], Any]) -> Any:
    import datasets
    import huggingface_hub.utils

    shown = [each for each in (datasets.utils, huggingface_hub.utils) if not each.are_progress_bars_disabled()]
    for library in () if sys.stderr.isatty() else shown:
        library.disable_progress_bars()
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # of the library, of the hub's client, of the network
        raise _unreachable(address, error) from error
    finally:
        for library in shown:
            library.enable_progress_bars()


def _files(builder: Any, split: str) -> Sequence[Path]:
    files = builder.as_dataset(split=split).cache_files
    return [Path(os.path.abspath(each["filename"])) for each in files]


def _unreachable(address: str, error: Exception) -> InputError:
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    said = " ".join(": ".join(dict.fromkeys(map(str, (error, first)))).split())[:400]
    hints = {
        **dict.fromkeys(("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError"), _NO_SET),
        "RevisionNotFoundError": "A revision is a branch, a tag or a commit.",
        "ConnectionError": "Check the network; HF_ENDPOINT names a mirror. What was loaded once is in its cache.",
    }
    if isinstance(first, ImportError):
        name = address.removeprefix("hf:").partition("@")[0]
        where = f"`hf download --repo-type dataset {name} --local-dir DIR`"
        hint = f"Install what is missing; or {where}, and give the folder, which needs it not."
    else:
        hint = hints.get(type(error).__name__, "`subset` names a configuration, `split` a split.")
    return InputError(f"{address}: {type(error).__name__}: {said}", hint)
