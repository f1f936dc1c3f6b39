"""Whether what a store says of places was written by this user's own runs.

A store notes where its rows and its processor were, so that `retry`, `finish` and `why` need not be told again. A store
from a bucket may note any place. So the note carries a keyed digest of itself; the key is made once for each user and
never leaves the machine's configuration folder. A note without it is somebody else's word, which commands repeat to the
user in place of following it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.fingerprint import canonical_json

MARK: Final = "made_here"
_CHECKSUM: Final = "checksum"
"""Of `shards.manifest.sealed`, which is put around the note."""
_BYTES: Final = 32


def key_file() -> Path:
    """Return where the user's key is: vlm-prep/key in $XDG_CONFIG_HOME, by default ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vlm-prep" / "key"


def marked(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return a note with the mark of this user; without one where there is no place to keep the key."""
    key = _key(create=True)
    return dict(note) if key is None else {**note, MARK: _digest(key, note)}


def is_ours(note: Mapping[str, Any]) -> bool:
    """Whether a note carries the mark of this user, and is as it was written."""
    key, mark = _key(create=False), note.get(MARK)
    return key is not None and isinstance(mark, str) and hmac.compare_digest(mark.encode(), _digest(key, note).encode())


def _digest(key: bytes, note: Mapping[str, Any]) -> str:
    said = {name: value for name, value in note.items() if name not in (MARK, _CHECKSUM)}
    return hashlib.blake2b(canonical_json(said), key=key, digest_size=16).hexdigest()


def _key(*, create: bool) -> bytes | None:
    path = key_file()
    try:
        if create and not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"key.{secrets.token_hex(8)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(_BYTES))
                os.fsync(descriptor)
                os.link(temporary, path)  # of several processes that make one at once, one succeeds
            except FileExistsError:
                pass
            finally:
                os.close(descriptor)
                temporary.unlink()
        key = path.read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return key if len(key) == _BYTES else None
