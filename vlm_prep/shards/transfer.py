"""A finished store to an object store and back.

A store is sent when it is finished, not shard by shard: the names of shards hold their number (`-of-00032`), which is
known at the end, and an object cannot be renamed, only copied.

An object store has no rename, so nothing is written there under another name first: each file becomes an object by one
PUT or one completed multipart upload, before which it does not exist, and manifest.json is the last. Whoever finds a
manifest finds a whole store; a kill on the way costs what was under way. The rerun takes for done the objects whose
ETag is that of the file's bytes, and gives up the multipart uploads that the kill left open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.remote import faults_of, fetch, filesystem
from vlm_prep.shards.layout import is_store_entry
from vlm_prep.shards.manifest import MANIFEST, WORK, read_manifest

PART_BYTES = 16 << 20
"""Of a multipart upload. A file of less than two parts is one PUT."""

Say = Callable[[str], None]


def push(folder: Path, url: str, say: Say) -> None:
    """Copy the finished store `folder` to `url`, the manifest last.

    Raises:
        StoreError: the store is not finished.
        OutputError: another store or something else is there, or it may not be written.
        InputError: the object store could not be asked.
    """
    read_manifest(folder)
    try:
        with faults_of(url):
            _push(folder, url.rstrip("/"), say)
    except (FileNotFoundError, PermissionError) as error:
        raise OutputError(f"{url}: {error}", "check the bucket's name and what you may write there") from error


def _push(folder: Path, url: str, say: Say) -> None:
    file_system, root = filesystem(url)
    names = [*sorted(name for name in _names(folder) if name != MANIFEST), MANIFEST]
    there = _objects(file_system, root)
    _must_be_ours(folder, url, file_system, f"{root}/{MANIFEST}", names, there)
    _abort_uploads(file_system, root, names)
    sent = 0
    for name in names:
        path = folder / name
        if name in there and _etag(there[name]) == etag_of(path):
            continue
        file_system.put_file(str(path), f"{root}/{name}", chunksize=PART_BYTES)
        sent += 1
    say(f"{url}: {sent} of {len(names)} files copied, {len(names) - sent} were there" if sent else f"{url} is complete")


def _names(folder: Path) -> Iterator[str]:
    """Yield the files of a store, by their path in it."""
    for entry in folder.iterdir():
        if entry.name == WORK or not is_store_entry(entry):
            continue
        for path in entry.iterdir() if entry.is_dir() else (entry,):
            if not path.name.startswith("cache-"):  # what `datasets` left beside the shards
                yield path.relative_to(folder).as_posix()


def _objects(file_system: Any, root: str) -> dict[str, dict[str, Any]]:
    """Return what is known of each object below `root`, by its path there."""
    found: dict[str, dict[str, Any]] = file_system.find(root, detail=True)
    return {path.removeprefix(root).lstrip("/"): info for path, info in found.items()}


def _must_be_ours(
    folder: Path, url: str, file_system: Any, manifest: str, names: list[str], there: dict[str, Any]
) -> None:
    if strangers := sorted(set(there) - set(names)):
        raise OutputError(
            f"{url} holds what this store does not: {', '.join(strangers[:5])}", "choose another place, or empty it"
        )
    if MANIFEST in there and file_system.cat_file(manifest) != (folder / MANIFEST).read_bytes():
        raise OutputError(f"{url} holds another store", "choose another place, or empty it")


def _abort_uploads(file_system: Any, root: str, names: list[str]) -> None:
    """Give up unfinished uploads of these objects: nobody sees them, and they are paid for."""
    if not hasattr(file_system, "call_s3"):
        return
    bucket, _, prefix = root.partition("/")
    ours = {f"{prefix}/{name}".lstrip("/") for name in names}
    listed = file_system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
    for upload in listed.get("Uploads", ()):
        if upload["Key"] in ours:
            file_system.call_s3(
                "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )


def etag_of(path: Path) -> str:
    """Return the ETag that S3 gives a file uploaded by `push` (where it does not encrypt with a key of its own; there
    no object is taken for done)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size < 2 * PART_BYTES:
            return hashlib.file_digest(file, "md5").hexdigest()
        parts = [hashlib.md5(part).digest() for part in iter(lambda: file.read(PART_BYTES), b"")]
    return f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def _etag(info: dict[str, Any]) -> str:
    return str(info.get("ETag", "")).strip('"')


def pull(url: str, folder: Path, say: Say) -> None:
    """Copy a store from `url` into `folder`, the manifest last; shards are compared with its checksums.

    Raises:
        StoreError: there is no finished store, or a shard is not what its manifest states.
        OutputError: the folder holds something else.
        InputError: the object store could not be asked.
    """
    try:
        with faults_of(url):
            _pull(url.rstrip("/"), folder, say)
    except (FileNotFoundError, PermissionError) as error:
        raise StoreError(f"{url}: {error}", "check the address and what you may read there") from error


def _pull(url: str, folder: Path, say: Say) -> None:
    file_system, root = filesystem(url)
    there = _objects(file_system, root)
    if MANIFEST not in there:
        raise StoreError(
            f"{url} holds no finished store: it has no {MANIFEST}",
            "if it was being copied there, run that command again, it continues where it stopped",
        )
    manifest = file_system.cat_file(f"{root}/{MANIFEST}")
    if (folder / MANIFEST).exists() and (folder / MANIFEST).read_bytes() != manifest:
        raise OutputError(f"{folder} holds another store", "choose another folder")
    if foreign := [path.name for path in folder.iterdir() if not is_store_entry(path)] if folder.exists() else []:
        raise OutputError(f"{folder} holds something else: {', '.join(sorted(foreign)[:5])}", "choose another folder")
    fetched = 0
    for name in [*sorted(set(there) - {MANIFEST}), MANIFEST]:
        target = folder / name
        if target.exists() and _etag(there[name]) == etag_of(target):
            continue
        fetch(file_system, f"{root}/{name}", target)
        fetched += 1
    damaged = [path for path, info in read_manifest(folder).shards() if digest_file(folder / path) != info.xxh3]
    if damaged:
        (folder / MANIFEST).unlink()
        raise StoreError(f"{url}: differs from its manifest: {', '.join(damaged)}", "copy it there again")
    say(f"{folder}: {fetched} of {len(there)} files copied, {len(there) - fetched} were there")
