"""Files on object stores, through fsspec: `s3://bucket/key`.

What is not there, or may not be read by this user, is the row's matter and comes as FileNotFoundError or
PermissionError, as for a file; so is an address that can never work, which is a reject. All else (no or refused
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
from functools import cache
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import InputError, Reject, RejectReason, VlmPrepError
from vlm_prep.core.fingerprint import digest_json

_SCHEME = re.compile(r"(s3|gs|az|abfs)://[^/]")
_BUCKET = re.compile(r"[A-Za-z0-9._@-]{1,255}|arn:[A-Za-z0-9:/_.-]+")
_LONGEST_KEY = 1024
"""Bytes, of S3 and Google Cloud Storage."""
_ADDRESS_ERRORS = ("ParamValidationError", "InvalidEndpointError")
_ADDRESS_CODES = ("InvalidBucketName", "KeyTooLong", "InvalidURI", "Invalid bucket name")
_WHO_ASKS = (
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidSecurity"),
    *("RequestTimeTooSkewed", "AccountProblem", "NotSignedUp", "TokenRefreshRequired", "AuthorizationHeaderMalformed"),
)
"""Codes of S3 that refuse who asks, whatever the object: the next row would be refused, too."""
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
    except (FileNotFoundError, PermissionError, VlmPrepError, Reject):
        raise
    except Exception as error:  # each store's client has errors of its own
        raise InputError(
            f"{uri}: the store could not be asked: {type(error).__name__}: {error}", CHECK_ACCESS
        ) from error


def require_possible(uri: str) -> None:
    """Reject an address of a row that can never be that of an object.

    Raises:
        Reject: unsupported_media, the package for this kind of store is not installed; bad_media_entry, no store takes
            such a bucket or key.
    """
    scheme, _, rest = uri.partition("://")
    if (missing := _missing_package(scheme)) is not None:
        raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{uri}: {missing}")
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, f"{uri}: {bucket!r} cannot be the name of a bucket")
    if not key.strip("/") or len(key.encode(errors="replace")) > _LONGEST_KEY or not key.isprintable():
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, f"{uri}: no object can have such a key")


@cache
def _missing_package(scheme: str) -> str | None:
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        hint = "pip install 'vlm-prep[s3]'" if scheme == "s3" else "install the fsspec package of that store"
        return f"{error}; {hint}"
    return None


@contextmanager
def _faults_of_object(uri: str) -> Iterator[None]:
    """As `faults_of`; what a store says of the address itself is the row's reject."""
    with faults_of(uri):
        try:
            yield
        except IsADirectoryError as error:
            raise Reject(RejectReason.UNREADABLE_FILE, f"{uri}: is a folder, not an object") from error
        except PermissionError as error:
            if _code(error) in _WHO_ASKS:
                raise InputError(f"{uri}: the store could not be asked: {error}", CHECK_ACCESS) from error
            raise
        except Exception as error:
            if type(error).__name__ in _ADDRESS_ERRORS or any(code in str(error) for code in _ADDRESS_CODES):
                raise Reject(RejectReason.BAD_MEDIA_ENTRY, f"{uri}: no store takes this address") from error
            raise


def _code(error: BaseException | None) -> str:
    """Return the store's own code of an error; 403 where it sent none, as in its answers to HEAD."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def read_remote(uri: str) -> bytes:
    """Return all bytes of an object. Raises as `faults_of` and `require_possible`."""
    require_possible(uri)
    with _faults_of_object(uri):
        file_system, path = filesystem(uri)
        data: bytes = file_system.cat_file(path)
    return data


def read_remote_ends(uri: str, length: int) -> tuple[int, bytes, bytes]:
    """Return (size, first `length` bytes, last `length` bytes behind these) of an object. Raises as `read_remote`."""
    require_possible(uri)
    with _faults_of_object(uri):
        file_system, path = filesystem(uri)
        try:
            size = int(file_system.info(path)["size"])
        except PermissionError as error:
            if _code(error) == "403":
                file_system.cat_file(path, start=0, end=1)  # raises the same with a code that says what is refused
            raise
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
