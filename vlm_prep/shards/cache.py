"""Shards of object stores in a local folder, bounded by bytes and shared by all processes of a machine.

A file is named after what it holds (store, checksum, size, shard), so a store that was replaced finds nothing of the
former one. It is fetched whole under a temporary name, compared with the manifest's size and checksum (12 GB/s), and
renamed. What was used least recently is unlinked to make room; who has mapped it keeps it until the map is let go.

Of processes that want the same shard one fetches it, the others wait for it: 64 loader workers that begin an epoch
would else fetch everything 64 times. Who fetches holds `flock` on the temporary file, which the kernel lets go of
however the process dies; then another one fetches, and what is left is overwritten, or removed with the next fetch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from vlm_prep.core.atomic_files import process_mark, sync_file
from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.core.fingerprint import digest_file, digest_json
from vlm_prep.core.remote import CHECK_ACCESS, cache_folder, faults_of, filesystem
from vlm_prep.shards.shard_info import ShardInfo

CACHE_BYTES = 64 << 30
"""By default: four times what a shuffled epoch of full shards reads from at a time."""
PART_BYTES = 16 << 20
"""Of a shard, fetched and held in memory at a time, four of them."""
COPY_AGAIN = "copy the store there again with `vlm-prep push`, which sends what differs"
STALLED_SECONDS = 60.0
"""Who waits for another process that fetches a shard, and sees the file grow no more for so long, fetches it, too."""
_WAIT_SECONDS = 0.02
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FILE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}-(\d+)-.+")


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """A folder of fetched shards. Files of other names in it are left alone.

    Args:
        folder: on a local disk; made when it is needed.
        bytes: most bytes in it, those of running fetches included.
        verify: compare checksums also of copies that were there, whenever one is mapped.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "shards")
    bytes: int = CACHE_BYTES
    verify: bool = False

    def make_room(self) -> None:
        """Remove what killed fetches left and then what was used least recently, until the rest fits.

        Each fetch has its temporary file before it asks for room, and counts with its whole size, so processes that
        fetch at the same time keep the bound together.
        """
        used: list[tuple[int, str, int]] = []
        total = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                named = _FILE.fullmatch(entry.name)
                if named is None:
                    continue
                if not entry.name.endswith(".tmp"):
                    with contextlib.suppress(FileNotFoundError):
                        used.append((entry.stat().st_mtime_ns, entry.path, int(named[1])))
                elif not _removed_if_abandoned(entry.path):
                    total += int(named[1])
        total += sum(size for _, _, size in used)
        for _, path, size in sorted(used):
            if total <= self.bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def shard_cache(folder: str | Path | None, size: int | None, *, verify: bool = False) -> ShardCache:
    """Return a cache in `folder` of at most `size` bytes, each the default one where it is None."""
    default = ShardCache(verify=verify)
    return replace(
        default,
        folder=default.folder if folder is None else Path(os.path.abspath(folder)),
        bytes=default.bytes if size is None else size,
    )


@dataclass(frozen=True, kw_only=True)
class CachedShard:
    """A shard on an object store, by way of a cache."""

    cache: ShardCache
    url: str
    fingerprint: str
    """Of its store."""
    split: str
    info: ShardInfo

    @property
    def file(self) -> Path:
        """Where its copy is, if it is there."""
        store, info = digest_json(self.fingerprint), self.info
        digests = f"{store.removeprefix('xxh3:')[:16]}-{info.xxh3.removeprefix('xxh3:')}"
        return self.cache.folder / f"{digests}-{info.bytes}-{self.split}-{info.name}"

    def touch(self) -> None:
        """Note that it is in use."""
        # gone: it was evicted, the map stays. Not ours: another user's cache is read as it is
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.utime(self.file)

    def open(self) -> pa.MemoryMappedFile:
        """Map the shard, fetched unless it is there.

        Raises:
            StoreError: it is missing or is not what the manifest states.
            InputError: the object store could not be asked.
            OutputError: the cache cannot be written.
        """
        try:
            return self._open()
        except OSError as error:
            raise OutputError(f"{self.cache.folder}: {error}", "give another cache_dir") from error

    def _open(self) -> pa.MemoryMappedFile:
        file, owner = self.file, _Sign()
        while True:
            found = self._cached(file)
            if found is not None:
                return found
            self.cache.folder.mkdir(parents=True, exist_ok=True)
            mark = f".{process_mark()}" if owner.stalled else ""
            temporary = file.with_name(f"{file.name}{mark}.tmp")
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if locked(descriptor) and is_at(descriptor, temporary):
                    return self._fetched(temporary, file)
                owner.look(descriptor)
            finally:
                os.close(descriptor)
            time.sleep(_WAIT_SECONDS)

    def _cached(self, file: Path) -> pa.MemoryMappedFile | None:
        self.touch()
        try:
            whole = file.stat().st_size == self.info.bytes
            if whole and (not self.cache.verify or digest_file(file) == self.info.xxh3):
                return pa.memory_map(str(file))
            file.unlink()  # damaged by the disk
        except FileNotFoundError:
            pass
        return None

    def _fetched(self, temporary: Path, file: Path) -> pa.MemoryMappedFile:
        try:
            self.cache.make_room()
            self._get(temporary)
            self._check(temporary)
            sync_file(temporary)
            # mapped before others see it, and may remove it
            found = pa.memory_map(str(temporary))
            os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return found

    def _get(self, target: Path) -> None:
        try:
            with faults_of(self.url):
                file_system, path = filesystem(self.url)
                # s3fs would hold ten parts of 50 MB
                parts = {"chunksize": PART_BYTES, "max_concurrency": 4} if hasattr(file_system, "call_s3") else {}
                file_system.get_file(path, str(target), **parts)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: the manifest names this shard and it is missing", COPY_AGAIN) from error
        except PermissionError as error:
            raise InputError(f"{self.url}: {error}", CHECK_ACCESS) from error
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _FULL:
                hint = f"make room, or give a cache_bytes below {self.cache.bytes:,}, or another cache_dir"
                raise OutputError(f"{self.cache.folder}: {cause.strerror}", hint) from error
            raise

    def _check(self, path: Path) -> None:
        size = path.stat().st_size
        if size != self.info.bytes:
            raise StoreError(
                f"{self.url}: {size} bytes, the manifest says {self.info.bytes}: the shard is damaged", COPY_AGAIN
            )
        found = digest_file(path)
        if found != self.info.xxh3:
            raise StoreError(
                f"{self.url}: checksum {found}, the manifest says {self.info.xxh3}: the shard is damaged", COPY_AGAIN
            )


class _Sign:
    """The last sign of life of the process that fetches a shard."""

    def __init__(self) -> None:
        self._seen: tuple[int, int, int] | None = None
        self._since = 0.0
        self.stalled = False

    def look(self, descriptor: int) -> None:
        """See whether its file grew."""
        status, now = os.fstat(descriptor), time.monotonic()
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen != self._seen:
            self._seen, self._since = seen, now
        self.stalled = now - self._since > STALLED_SECONDS


def locked(descriptor: int) -> bool:
    """Lock an open file, unless another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name: its former owner may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _removed_if_abandoned(path: str) -> bool:
    """Remove a temporary file that no process is fetching into; return whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        if not locked(descriptor):
            return False
        if is_at(descriptor, Path(path)):
            os.unlink(path)
        return True
    finally:
        os.close(descriptor)
