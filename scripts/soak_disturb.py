"""How `soak_commands.py` disturbs a command that runs in a forked process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import signal
import socket
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from soak_list import Step

from vlm_prep.core.errors import VlmPrepError
from vlm_prep.engine import lock

STALE_SECONDS, BEAT_SECONDS = 1.0, 0.1
"""Of a lock on another host, in place of two minutes and ten seconds."""
CALLS = ("write", "fsync", "rename", "unlink")
DONE, SAID = 0, 3
_LONGEST = 300.0


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What happens to a process."""

    name: str
    faults: dict[str, str] = field(default_factory=dict)
    """Of `faults.c`."""
    after: float | None = None
    """Seconds after which a signal is sent."""
    stopped: float = 0.0
    """How long it stands still; 0: it is killed."""


def chosen(chance: random.Random, out: Path, seconds: float, calls: dict[str, int], minutes: bool) -> Disturbance:
    """Choose a disturbance."""
    weights = (4, 8, 4, 1, 1) if calls else (9, 0, 0, 0, 1)
    kind = chance.choices(("instant", "call", "error", "clock", "stop"), weights)[0]
    if kind == "instant":
        return Disturbance(name="killed at an instant", after=chance.uniform(0, seconds))
    if kind == "clock":
        return Disturbance(name="clock goes back", faults=faults_of("clock", "back", 1, out))
    if kind == "stop":
        long = minutes and chance.random() < 0.3
        return Disturbance(
            name=f"stopped for {'a minute' if long else 'a second'}",
            after=chance.uniform(0, seconds),
            stopped=60.0 if long else 1.0,
        )
    call = chance.choice(list(calls))
    nth = chance.randint(1, calls[call])
    if kind == "call":
        when = chance.choice(("before", "half", "after") if call == "write" else ("before", "after"))
        return Disturbance(name=f"killed {when} a {call}", faults=faults_of(call, when, nth, out))
    fails = chance.choice(("EIO", "ENOSPC", *(("short",) if call == "write" else ())))
    return Disturbance(name=f"{fails} at a {call}", faults=faults_of(call, fails, nth, out))


def faults_of(call: str, kind: str, nth: int, out: Path) -> dict[str, str]:
    return {"FAULT_CALL": call, "FAULT_KIND": kind, "FAULT_NTH": str(nth), "FAULT_UNDER": str(out)}


def started(work: Step, out: Path, log: Path, faults: dict[str, str], host: str | None = None) -> int:
    """Run a step in a forked process; return its number. It exits with DONE, SAID after one line, else 9."""
    child = os.fork()
    if child:
        return child
    status = 9
    try:
        if host is not None:
            _be_on(host)
        os.environ.update(faults)
        work(out)
        status = DONE
    except VlmPrepError as error:
        os.environ.pop("FAULT_CALL", None)
        status = SAID if "\n" not in error.message else 9
        log.write_text(error.message)
    except OSError as error:  # `cli.main` says it in one line
        os.environ.pop("FAULT_CALL", None)
        status = SAID
        log.write_text(f"{type(error).__name__}: {error}")
    except BaseException:
        os.environ.pop("FAULT_CALL", None)
        log.write_text(traceback.format_exc())
    os._exit(status)


def _be_on(host: str) -> None:
    """Be on another host, on a file system whose locks do not reach it."""

    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    socket.gethostname = lambda: host
    fcntl.flock = no_locks  # type: ignore[assignment]
    lock.STALE_SECONDS, lock.BEAT_SECONDS = STALE_SECONDS, BEAT_SECONDS


def ended(child: int, seconds: float = _LONGEST) -> int:
    """Wait for a process and return its status, -9 where it was killed."""
    over = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > over:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 99
        time.sleep(0.002)


def disturbed(work: Step, out: Path, log: Path, what: Disturbance) -> int:
    """Run a step with a disturbance; return its status."""
    child = started(work, out, log, what.faults)
    if what.after is not None:
        over = time.monotonic() + what.after
        while time.monotonic() < over:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        os.kill(child, signal.SIGSTOP if what.stopped else signal.SIGKILL)
        if what.stopped:
            time.sleep(what.stopped)
            os.kill(child, signal.SIGCONT)
    return ended(child)


def taken_over(work: Step, out: Path, log: Path, seconds: float, chance: random.Random) -> tuple[str, list[str]]:
    """Have another host take over a step that was killed or stands still; return what was done and what is wrong."""
    first = started(work, out, log, {}, host="one")
    time.sleep(chance.uniform(0, seconds))
    dies = chance.random() < 0.5
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGKILL if dies else signal.SIGSTOP)
    wrong, tries = [], 0
    while (status := ended(started(work, out, log, {}, host="two"))) == SAID and tries < 100:
        tries += 1
        time.sleep(0.1)
    if status != DONE:
        wrong.append(f"the second host ended with {status}: {log.read_text()[-800:]}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)
    status = ended(first)
    if status not in (DONE, SAID, -signal.SIGKILL):
        wrong.append(f"the first host ended with {status}: {log.read_text()[-800:]}")
    return f"{'killed' if dies else 'stopped'}, taken over by a host", wrong
