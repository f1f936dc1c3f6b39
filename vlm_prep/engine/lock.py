"""One writer for a folder.

The lock file says who writes (host and process) and is held by `flock`, which the kernel lets go of when the process
dies, however it dies: no process number that was given to another process can block a rerun, and of two reruns that
find a dead owner only one goes on. `flock` may not reach another host or not exist on a network file system; there the
file's time decides, which its owner renews every few seconds: an owner without a sign of life for two minutes is gone.
Another host is one of another name, or of the same name and another start, as copies of one image are.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from vlm_prep.core.atomic_files import process_mark
from vlm_prep.core.errors import OutputError

BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""Longer than network file systems keep a file's time in their caches (60 s)."""


class Lock:
    """The lock of an output folder.

    Args:
        folder: what is locked, for messages.
        path: the lock file.
        say: tells the user a line.
    """

    def __init__(self, folder: Path | str, path: Path, say: Callable[[str], None]) -> None:
        self.folder, self.path = folder, path
        self._say = say
        self._descriptor: int | None = None
        self._over = threading.Event()
        self._mine = this_process()

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
            where = "" if is_here(owner) else f" on {owner['host']}"
            self._say(f"taking over {self.folder}: process {owner['pid']}{where} that was writing it is gone")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, orjson.dumps(self._mine), 0)
        self._over.clear()
        threading.Thread(target=self._beat, args=(self._descriptor,), name="vlm-prep-lock", daemon=True).start()

    def must_be_free(self) -> None:
        """Make sure that no other process holds the lock, without taking it.

        Raises:
            OutputError: one does, or one on another host may.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            self._take(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int, kind: int = fcntl.LOCK_EX) -> dict[str, Any] | None:
        """Lock the open file and return who held it before, if it says so."""
        held = reaches = True
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            held = False
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks
            held = reaches = False
        owner = _read(descriptor)
        here = owner is None or is_here(owner)
        if held and here:
            who = f"process {owner['pid']}" if owner is not None else "another process"
            raise OutputError(f"{self.folder} is being written by {who}", "wait for it, or stop it")
        if owner is not None and (held or not here or not reaches):
            silent = self._seconds_silent(descriptor)
            if held or (silent < STALE_SECONDS and not (here and is_dead(owner["pid"]))):
                raise OutputError(
                    f"{self.folder} is locked by process {owner['pid']} on {owner['host']}, "
                    f"whose last sign of life is {max(0, silent):.0f} s old",
                    f"wait for it, or stop it; after {STALE_SECONDS:.0f} s without a sign it is taken over (at once if "
                    f"you delete {self.path})",
                )
        return owner

    def _seconds_silent(self, descriptor: int) -> float:
        """Return how long ago the file was renewed, by the clock of the file system."""
        probe = self.path.with_name(f"{self.path.name}.{process_mark()}.tmp")
        try:
            probe.write_bytes(b"")
            return probe.stat().st_mtime - os.fstat(descriptor).st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self, descriptor: int) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                os.utime(descriptor)
            except OSError:
                return  # the folder is gone; the run finds out by itself

    def check(self) -> None:
        """Make sure that the lock is still ours.

        Raises:
            OutputError: it was taken over, since this process gave no sign of life (it was stopped or suspended).
        """
        if self._descriptor is None:
            return
        if not self._is_current(self._descriptor) or _read(self._descriptor) != self._mine:
            raise OutputError(
                f"{self.folder} was taken over by another run while this one was stopped or suspended",
                "let the other run finish",
            )

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one at the path: its owner may have removed it in between."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock if it is ours."""
        self._over.set()
        if self._descriptor is not None:
            # its folder may be gone, and another run's in its place
            if self._is_current(self._descriptor) and _read(self._descriptor) == self._mine:
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def boot() -> str | None:
    """Return what tells this machine, since it started, from others of its name; None where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def this_process() -> dict[str, Any]:
    """Return what names this process: host, boot, pid."""
    return {"host": socket.gethostname(), "boot": boot(), "pid": os.getpid()}


def is_here(process: Mapping[str, Any]) -> bool:
    """Whether a process that was named so is of this machine since it started: a name alone is that of each copy of an
    image, too."""
    return process["host"] == socket.gethostname() and process["boot"] in (None, boot())


def is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _read(descriptor: int) -> dict[str, Any] | None:
    try:
        owner: dict[str, Any] = orjson.loads(os.pread(descriptor, 4096, 0))
        host, pid, start = owner["host"], owner["pid"], owner.get("boot")
        known = isinstance(host, str) and type(pid) is int and pid > 0 and isinstance(start, str | None)
        return {"host": host, "boot": start, "pid": pid} if known else None
    except (ValueError, KeyError, TypeError):
        return None
