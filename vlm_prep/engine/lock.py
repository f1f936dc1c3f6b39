"""One writer for a folder.

The lock file says who writes (host and process) and is held by `flock`, which the kernel lets go of when the process
dies, however it dies: no process number that was given to another process can block a rerun, and of two reruns that
find a dead owner only one goes on. Another host's lock is never taken over, since its `flock` may not reach here.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from vlm_prep.core.errors import OutputError


class Lock:
    """The lock of an output folder.

    Args:
        folder: what is locked, for messages.
        path: the lock file.
        say: tells the user a line.
    """

    def __init__(self, folder: Path, path: Path, say: Callable[[str], None]) -> None:
        self.folder, self.path = folder, path
        self._say = say
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, also from an owner that died.

        Raises:
            OutputError: another process holds it, or one on another host may.
        """
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                owner = self._take(descriptor)
                if self._is_current(descriptor):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        if owner is not None:
            self._say(f"taking over {self.folder}: process {owner['pid']} that was writing it is gone")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, orjson.dumps({"host": socket.gethostname(), "pid": os.getpid()}), 0)

    def _take(self, descriptor: int) -> dict[str, Any] | None:
        """Lock the open file and return who held it before, if it says so."""
        held = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = True
        owner = _read(descriptor)
        if owner is not None and owner["host"] != socket.gethostname():
            raise OutputError(
                f"{self.folder} is locked by process {owner['pid']} on {owner['host']}",
                f"if that run is over, delete {self.path}",
            )
        if held:
            who = f"process {owner['pid']}" if owner is not None else "another process"
            raise OutputError(f"{self.folder} is being written by {who}", "wait for it, or stop it")
        return owner

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one at the path: its owner may have removed it in between."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock if it is ours."""
        if self._descriptor is not None:
            if self._is_current(self._descriptor):  # its folder may be gone, and another run's in its place
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _read(descriptor: int) -> dict[str, Any] | None:
    try:
        owner: dict[str, Any] = orjson.loads(os.pread(descriptor, 4096, 0))
        return {"host": owner["host"], "pid": owner["pid"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
