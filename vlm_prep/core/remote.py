"""Files on object stores, through fsspec: `s3://bucket/key`.

What is not there is the row's matter and comes as FileNotFoundError or PermissionError, as for a file. All else (no
credentials, no network after the library's own retries) says nothing about the row, so it stops the run: rejecting a
million rows because a token expired would be losing them in silence.

An object is written at once or not at all: a PUT, and a multipart upload until it is completed, are invisible.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import InputError, VlmPrepError
from vlm_prep.core.fingerprint import digest_json

_SCHEME = re.compile(r"(s3|gs|az|abfs)://[^/]")
CACHE_VARIABLE = "VLM_PREP_CACHE"
CHECK_ACCESS = (
    "check credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...), AWS_ENDPOINT_URL and the network; what was "
    "committed is kept: run the same command again"
)


def is_remote(uri: object) -> bool:
    """Whether a path is that of an object store."""
    return isinstance(uri, str) and _SCHEME.match(uri) is not None


def filesystem(uri: str) -> tuple[Any, str]:
    """Return (fsspec file system, path in it).

    Raises:
        InputError: the package for this kind of store is not installed.
    """
    import fsspec

    try:
        # listings would be remembered: an object that appears later would not be seen
        file_system, path = fsspec.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        hint = "pip install 'vlm-prep[s3]', or the fsspec package of your store"
        raise InputError(f"{uri}: {error}", hint) from error
    return file_system, path


@contextmanager
def faults_of(uri: str) -> Iterator[None]:
    """Turn what a store's client raises into an InputError, except for what is true of one object.

    Raises:
        FileNotFoundError, PermissionError, VlmPrepError: as they are.
        InputError: the store could not be asked.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, VlmPrepError):
        raise
    except Exception as error:  # each store's client has errors of its own
        raise InputError(
            f"{uri}: the store could not be asked: {type(error).__name__}: {error}", CHECK_ACCESS
        ) from error


def read_remote(uri: str) -> bytes:
    """Return all bytes of an object. Raises as `faults_of`."""
    with faults_of(uri):
        file_system, path = filesystem(uri)
        data: bytes = file_system.cat_file(path)
    return data


def read_remote_ends(uri: str, length: int) -> tuple[int, bytes, bytes]:
    """Return (size, first `length` bytes, last `length` bytes beyond the first) of an object. Raises as `faults_of`."""
    with faults_of(uri):
        file_system, path = filesystem(uri)
        size = int(file_system.info(path)["size"])
        if size <= 2 * length:
            data = file_system.cat_file(path) if size else b""
            return size, data[:length], data[length:]
        head = file_system.cat_file(path, start=0, end=length)
        return size, head, file_system.cat_file(path, start=size - length, end=size)


def cache_folder() -> Path:
    """Return the folder for copies of objects: $VLM_PREP_CACHE, by default ~/.cache/vlm-prep."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "vlm-prep")


def cached(uri: str) -> Path:
    """Return a local copy of an object, fetched unless this very version of it is there.

    Copies lie in `cache_folder` and stay there.

    Raises:
        InputError: there is no such object, or the store could not be asked.
    """
    try:
        with faults_of(uri):
            file_system, path = filesystem(uri)
            found = file_system.info(path)
            version = digest_json([uri, found["size"], str(found.get("ETag") or found.get("LastModified"))])
            target = cache_folder() / version.removeprefix("xxh3:")[:16] / uri.rpartition("/")[2]
            if not target.exists():
                fetch(file_system, path, target)
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(f"{uri}: {error}", "check the address") from error
    return target


def fetch(file_system: Any, path: str, target: Path) -> None:
    """Copy an object into a local file, which is absent or whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        temporary = Path(folder) / target.name
        file_system.get_file(path, str(temporary))
        os.replace(temporary, target)
