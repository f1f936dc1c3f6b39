"""Is a finished folder what its manifest says: every file, every count.

Readers make the cheap part of these checks whenever they open a store (sizes, ends, rows of each batch); this one reads
everything, on an object store the objects themselves and no copies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.regular_files import read_regular
from vlm_prep.shards.earlier import rejected_earlier
from vlm_prep.shards.heads import count_rows
from vlm_prep.shards.layout import changed_files, read_rejects
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.object_store import RemotePath, StorePath
from vlm_prep.shards.reader import ShardReader
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_names import PLAN_FILE, REJECTS_FILE, WORK

_SHARD = re.compile(r"[^/]+/data-[^/]*\.[^/]*")


def damaged_files(folder: StorePath, manifest: Manifest) -> list[str]:
    """Return a line for each file that is missing, damaged, or not the manifest's."""
    return [
        *_shards(folder, manifest),
        *_strangers(folder, manifest),
        *changed_files(folder, manifest),
        *_dataset_files(folder, manifest),
    ]


def _shards(folder: StorePath, manifest: Manifest) -> Iterator[str]:
    for path, info in manifest.shards():
        try:
            _check_shard(folder / path, info)
        except StoreError as error:
            yield error.message
        except (pa.ArrowException, OSError, ValueError) as error:
            yield f"{folder / path}: {error}"


def _check_shard(path: StorePath, info: ShardInfo) -> None:
    """Compare the checksum, and see that what it is of is a shard that readers take."""
    if isinstance(path, Path) and not path.is_file():
        ShardReader(path, info)  # says that it is missing
    shard = ShardReader(path, info, size=info.bytes)
    shard.verify()
    if isinstance(path, RemotePath) or path.suffix == ".tar":
        return  # an object's checksum is of the file whose rows were counted; so is a tar's
    for number in range(len(info.batches)):
        shard.batch(number)
        shard.forget(number)
    if (found := count_rows(path)) != info.rows:
        raise StoreError(f"{path}: holds {found} rows, the manifest says {info.rows}")


def _names(folder: StorePath) -> list[str]:
    """The files of a store's folders by their path in it."""
    if isinstance(folder, RemotePath):
        return [name for name in folder.names() if name.count("/") == 1]
    return sorted(found.relative_to(folder).as_posix() for found in folder.glob("*/*"))


def _strangers(folder: StorePath, manifest: Manifest) -> Iterator[str]:
    """Shards that the manifest does not name: `load_dataset` would read them."""
    known = {path for path, _ in manifest.shards()}
    for name in _names(folder):
        if _SHARD.fullmatch(name) and name not in known and not name.startswith(WORK):
            yield f"{folder / name}: not in the manifest (renamed, or of another run)"


def _dataset_files(folder: StorePath, manifest: Manifest) -> Iterator[str]:
    filled = {split: shards for split, shards in manifest.splits.items() if shards}
    if manifest.extra.get("format") == "webdataset":
        return  # tars have no such files
    expected: dict[str, Any] = {"dataset_dict.json": ("splits", list(filled))}
    for split, shards in filled.items():
        expected[f"{split}/state.json"] = ("_data_files", [{"filename": shard.name} for shard in shards])
    for name, (key, value) in expected.items():
        try:
            if orjson.loads(read_regular(folder / name)).get(key) != value:
                yield f"{folder / name}: does not name what the manifest names"
        except (OSError, orjson.JSONDecodeError, AttributeError) as error:
            yield f"{folder / name}: {error}"
    for name in ("README.md", *(f"{split}/dataset_info.json" for split in filled)):
        if not _is_file(folder / name):
            yield f"{folder / name}: missing"
    if manifest.stage == "pack" and manifest.extra.get("layout") == "ranks" and not _is_file(folder / PLAN_FILE):
        yield f"{folder / PLAN_FILE}: missing"


def _is_file(path: StorePath) -> bool:
    return path.exists() if isinstance(path, RemotePath) else path.is_file()


def wrong_accounts(folder: StorePath, manifest: Manifest) -> list[str]:
    """Return a line for each number of the manifest that does not follow from the others and from the files."""
    return [*_accounts(folder, manifest), *_identity(manifest)]


def _accounts(folder: StorePath, manifest: Manifest) -> Iterator[str]:
    totals, shards = manifest.totals, [info for _, info in manifest.shards()]
    if not totals:
        yield "manifest.json: has no accounts"
        return
    try:
        rejected: int | str = len(read_rejects(folder))
    except (OSError, StoreError) as error:
        rejected = f"unreadable ({error})"
    if rejected != (said := totals["rows_rejected"] + rejected_earlier(totals)):
        yield f"{REJECTS_FILE}: {rejected} rows, the manifest says {said}"
    if sum(totals["rejects"].values()) != totals["rows_rejected"]:
        yield "manifest.json: the reject reasons do not add up to the rows rejected"
    documents = totals["rows_written"] + totals.get("extra_documents", 0)
    if manifest.stage != "pack" and (found := sum(info.rows for info in shards)) != documents:
        yield f"the shards hold {found} rows, the manifest says {documents}"
    if "tokens" in totals and manifest.extra.get("layout") != "index" and _tokens(shards) != totals["tokens"]:
        yield f"the shards hold {_tokens(shards)} tokens, the manifest says {totals['tokens']}"


def _tokens(shards: list[ShardInfo]) -> int:
    return sum(info.tokens for info in shards)


def fingerprint_of(identity: dict[str, Any], retries: list[dict[str, Any]], updated: str | None = None) -> str:
    """Return the fingerprint of a store: of its run, of the shards of its last update (media may have changed where its
    rows did not), and of the rows that retries added to it."""
    if not retries and updated is None:
        return digest_json(identity)
    more = {} if updated is None else {"updated": updated}
    return digest_json({"run": identity, "retries": retries, **more})


def _identity(manifest: Manifest) -> Iterator[str]:
    extra = manifest.extra
    if manifest.fingerprint != fingerprint_of(manifest.identity, extra.get("retries", []), extra.get("updated")):
        yield "manifest.json: its fingerprint is not that of its identity"
    made = sum(manifest.tasks) + sum(sum(retry["tasks"]) for retry in manifest.extra.get("retries", []))
    if made != len(manifest.shards()):
        yield f"manifest.json: names {len(manifest.shards())} shards, its tasks made {made}"
