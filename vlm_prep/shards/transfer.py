"""A finished store to an object store and back.

A store is sent when it is finished, not shard by shard: the names of shards hold their number (`-of-00032`), which is
known at the end, and an object cannot be renamed, only copied.

An object store has no rename, so nothing is written there under another name first: each file becomes an object by one
PUT or one completed multipart upload, before which it does not exist, and manifest.json is the last. Whoever finds a
manifest finds a whole store; a kill on the way costs what was under way. The rerun takes for done the objects whose
ETag is that of the file's bytes, and gives up the multipart uploads that the kill left open.

On the way back the names, sizes and checksums are those of the manifest before anything is written: a bucket is filled
by others. Files are fetched under a name in `_work/`, so that a kill leaves a folder that the same command completes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_prep.core.atomic_files import sync_file, sync_folder, write_bytes_atomically
from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.regular_files import read_regular
from vlm_prep.core.remote import faults_of, filesystem
from vlm_prep.shards.cache import COPY_AGAIN, is_at, locked
from vlm_prep.shards.manifest import Manifest, parse_manifest, read_manifest
from vlm_prep.shards.store_names import (
    MANIFEST,
    ORIGIN_FILE,
    ROWS_FILE,
    RUN_FILE,
    WORK,
    StoreName,
    is_shard,
    is_store_entry,
    is_store_name,
    must_be_plain,
    store_names,
)

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
    names = [*sorted(name for name in _names(folder) if name != MANIFEST), StoreName(MANIFEST)]
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


def _names(folder: Path) -> list[StoreName]:
    """Return the files of a store, by their path in it.

    What else lies there (`datasets`' caches) is left out, and so is rows.parquet, which speaks of this machine's files.
    """
    paths = [path for path in (*folder.iterdir(), *folder.glob("*/*")) if not path.is_dir() or path.is_symlink()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    found = store_names([name for name in names if is_store_name(name) and name != ROWS_FILE], folder)
    must_be_plain(folder, found)  # a link would send a file from elsewhere
    return found


def _objects(file_system: Any, root: str) -> dict[str, dict[str, Any]]:
    """Return what is known of each object below `root`, by its path there."""
    found: dict[str, dict[str, Any]] = file_system.find(root, detail=True)
    return {path.removeprefix(f"{root}/"): info for path, info in found.items()}


def _must_be_ours(
    folder: Path, url: str, file_system: Any, manifest: str, names: list[StoreName], there: dict[str, Any]
) -> None:
    if strangers := sorted(set(there) - set(names)):
        raise OutputError(
            f"{url} holds what this store does not: {', '.join(strangers[:5])}", "choose another place, or empty it"
        )
    if MANIFEST in there and file_system.cat_file(manifest) != read_regular(folder / MANIFEST):
        raise OutputError(f"{url} holds another store", "choose another place, or empty it")


def _abort_uploads(file_system: Any, root: str, names: list[StoreName]) -> None:
    """Give up unfinished uploads of these objects: nobody sees them, and they are paid for."""
    if not hasattr(file_system, "call_s3"):
        return
    bucket, _, prefix = root.partition("/")
    ours = {f"{prefix}/{name}".lstrip("/") for name in names}
    listed = file_system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
    for upload in listed.get("Uploads", ()):
        if upload["Key"] in ours:
            with contextlib.suppress(FileNotFoundError):  # a server may still be ending what a killed push began
                named = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                file_system.call_s3("abort_multipart_upload", **named)


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
    names = store_names(there, url)  # before anything is read or written: keys are whatever someone chose
    if MANIFEST not in there:
        raise StoreError(
            f"{url} holds no finished store: it has no {MANIFEST}",
            "if it was being copied there, run that command again, it continues where it stopped",
        )
    content = file_system.cat_file(f"{root}/{MANIFEST}")
    manifest = parse_manifest(content, url)
    expected = _expected(manifest, names)
    _must_be_whole(url, there, expected)
    _must_be_pullable(folder, content, names)
    wanted = [name for name in expected if not _is_there(folder / name, expected[name], there[name])]
    is_new = not (folder / MANIFEST).exists()
    # a kill between the manifest and the end leaves the work folder behind
    if wanted or is_new or (folder / WORK).exists():
        with _fetching(folder) as temporary:
            for name in wanted:
                file_system.get_file(f"{root}/{name}", str(temporary))
                _must_be(temporary, expected[name], url, name)
                sync_file(temporary)
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(temporary, folder / name)
                sync_folder((folder / name).parent)
            write_bytes_atomically(folder / MANIFEST, content)
    fetched = len(wanted) + is_new
    say(f"{folder}: {fetched} of {len(there)} files copied, {len(there) - fetched} were there")


Expected = tuple[int, str] | None
"""(bytes, checksum) of a file; None where the manifest does not say."""


def _expected(manifest: Manifest, names: Iterable[StoreName]) -> dict[StoreName, Expected]:
    """Return what the manifest says of the store's files, itself aside."""
    shards = {name: (info.bytes, info.xxh3) for name, info in manifest.shards()}
    files = {StoreName(name): (about["bytes"], about["xxh3"]) for name, about in manifest.files.items()}
    # stores of earlier versions do not name the files beside the shards, and none does what holds paths
    paths = (ORIGIN_FILE, RUN_FILE)
    unnamed = [name for name in names if name in paths or not (manifest.files or is_shard(name.split("/")[-1]))]
    return {**dict.fromkeys(unnamed), **files, **shards}


def _must_be_whole(url: str, there: dict[str, dict[str, Any]], expected: dict[StoreName, Expected]) -> None:
    if strangers := sorted(there.keys() - expected.keys() - {MANIFEST}):
        raise StoreError(f"{url} holds what its manifest does not name: {', '.join(strangers[:5])}", "delete it there")
    for name, about in expected.items():
        if name not in there:
            raise StoreError(f"{url}/{name}: the manifest names it and it is missing", COPY_AGAIN)
        size = int(there[name]["size"])
        if about is not None and size != about[0]:
            raise StoreError(f"{url}/{name}: {size} bytes, the manifest says {about[0]}", COPY_AGAIN)


def _must_be_pullable(folder: Path, content: bytes, names: list[StoreName]) -> None:
    """Make sure that the folder is ours to write: empty, this very store, or what an earlier pull left of it."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder", "choose another folder")
    if (folder / MANIFEST).exists() and read_regular(folder / MANIFEST) != content:
        raise OutputError(f"{folder} holds another store", "choose another folder")
    if foreign := [path.name for path in folder.iterdir() if not is_store_entry(path)]:
        raise OutputError(f"{folder} holds something else: {', '.join(sorted(foreign)[:5])}", "choose another folder")
    if (folder / WORK).is_symlink() or (folder / WORK / "plan.json").exists():
        raise OutputError(f"{folder} is being made by a run of vlm-prep", "choose another folder")
    must_be_plain(folder, names)


def _is_there(path: Path, expected: Expected, info: dict[str, Any]) -> bool:
    if not path.is_file():
        return False
    if expected is None:
        return _etag(info) == etag_of(path)
    return path.stat().st_size == expected[0] and digest_file(path) == expected[1]


def _must_be(path: Path, expected: Expected, url: str, name: StoreName) -> None:
    if expected is not None and digest_file(path) != expected[1]:
        raise StoreError(f"{url}: differs from its manifest: {name}", COPY_AGAIN)


@contextmanager
def _fetching(folder: Path) -> Iterator[Path]:
    """Yield a file in the work folder to fetch into; the folder is unfinished as long as it is there.

    Raises:
        OutputError: another process fetches into it, or it cannot be written.
    """
    work = folder / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / "fetch.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            if not locked(descriptor) or not is_at(descriptor, work / "fetch.lock"):
                raise OutputError(f"{folder} is being fetched by another process", "wait for it, or stop it")
            (work / "fetched").unlink(missing_ok=True)  # it may be a link: a folder can be somebody else's, too
            yield work / "fetched"
            shutil.rmtree(work)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}", "choose another folder") from error
