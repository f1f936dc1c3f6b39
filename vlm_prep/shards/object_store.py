"""Where a store is: a folder, or a place on an object store that is read by way of a local cache."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from vlm_prep.core.errors import InputError
from vlm_prep.core.remote import CHECK_ACCESS, faults_of, filesystem, is_remote, read_remote
from vlm_prep.shards.cache import ShardCache

_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class RemotePath:
    """A place on an object store, spelt like a `Path` as far as readers of stores need it.

    Its methods raise FileNotFoundError for what is not there, and InputError when the store cannot be asked or does
    not allow it.
    """

    url: str
    cache: ShardCache

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}", self.cache)

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.url)

    @property
    def suffix(self) -> str:
        """The end of the last part, its dot included."""
        return posixpath.splitext(self.url)[1]

    def read_bytes(self) -> bytes:
        """Return all bytes of an object."""
        with _asking(self.url):
            return read_remote(self.url)

    def digest(self) -> str:
        """Return the digest of the object that is there now, past the cache, read in blocks of 32 MiB."""
        state = xxhash.xxh3_128()
        with _asking(self.url):
            file_system, path = filesystem(self.url)
            with file_system.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead") as file:
                while block := file.read(_BLOCK_BYTES):
                    state.update(block)
        return f"xxh3:{state.hexdigest()}"

    def exists(self) -> bool:
        """Whether the object is there."""
        with _asking(self.url):
            file_system, path = filesystem(self.url)
            return bool(file_system.exists(path))

    def names(self) -> list[str]:
        """Return the objects below this place by their path from here, sorted."""
        with _asking(self.url):
            file_system, root = filesystem(self.url)
            found = file_system.find(root)
        return sorted(path.removeprefix(root).lstrip("/") for path in found)


StorePath = Path | RemotePath


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Tell what went wrong: a refusal is no property of the object, a token may have expired."""
    try:
        with faults_of(url):
            yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such object: {error}") from error
    except PermissionError as error:
        raise InputError(f"{url}: {error}", CHECK_ACCESS) from error


def store_path(path: str | StorePath, cache: ShardCache | None = None) -> StorePath:
    """Return where a store is.

    Args:
        path: a folder, or an address such as s3://bucket/prefix.
        cache: for the shards of an object store; None takes the default one.

    Raises:
        InputError: an address that a `pathlib.Path` was made of.
    """
    if isinstance(path, RemotePath):
        return path
    if is_remote(path):
        return RemotePath(str(path).rstrip("/"), cache or ShardCache())
    if is_remote(str(path).replace(":/", "://", 1)):
        raise InputError(f"{path}: a Path keeps one of an address's slashes", "give the address as a str")
    return Path(path)


def absolute(path: StorePath) -> StorePath:
    """Return a path that means the same from any working folder."""
    return path if isinstance(path, RemotePath) else Path(os.path.abspath(path))


def written_from(path: StorePath, base: Path) -> str:
    """Return how a store in `base` writes down where another one is."""
    return path.url if isinstance(path, RemotePath) else os.path.relpath(path, base)


def beside(base: StorePath, written: str, cache: ShardCache | None = None) -> StorePath:
    """Return the place that a store at `base` writes down, see `written_from`."""
    if isinstance(base, RemotePath) and not is_remote(written):
        scheme, _, path = base.url.partition("://")
        return RemotePath(f"{scheme}://{posixpath.normpath(posixpath.join(path, written))}", base.cache)
    if is_remote(written):
        return store_path(written, base.cache if isinstance(base, RemotePath) else cache)
    return Path(base / written)  # type: ignore[arg-type]
