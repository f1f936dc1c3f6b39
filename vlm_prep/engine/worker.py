"""One supervised worker process: its own side, and the run's handle on it.

Workers are forked from a forkserver, which imports the job's heavy libraries and makes what all workers need (loading a
processor takes seconds) once, before any of them has threads. Each has its own pipe and heartbeat and shares no lock
with any other, so one of them can be killed at any instruction and nobody else notices. (Pools that hand tasks out
through one shared pipe, such as pebble's and concurrent.futures', break when a worker dies while it holds the lock.)
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import traceback
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.forkserver import _forkserver, ensure_running
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import RejectReason, VlmPrepError
from vlm_prep.core.own_process import ENVIRONMENT, end_with_parent, make_own, without_main
from vlm_prep.engine.heartbeat import Beat, SharedHeartbeat
from vlm_prep.engine.tasks import NO_ROW, Assignment, Job

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # of pyarrow's allocator, from its import on
    # memory of up to 256 MiB is used again and not given back to the kernel, which takes longer to hand out and clear
    # the pages of a picture's tensors than torch takes to fill them: comparing and making pixels take half the time
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    # pages of 2 MiB for torch's larger tensors, where the kernel leaves that to programs: comparing takes a tenth less
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""The parallelism is in the processes. Workers inherit these from the forkserver; this process keeps its own."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SENT_BY_OTHERS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_LOST_SERVER = 255
"""Exit code that multiprocessing reports when the forkserver died, too."""
_SECONDS_TO_END = 5.0
_preloaded: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a worker ended."""

    reason: RejectReason
    message: str
    certain: bool
    """Whether the work it did is to blame; a signal that people and the kernel's memory killer send may hit any."""


TOO_SLOW = Death(reason=RejectReason.TIMEOUT, message="was worked on for longer than --sample-timeout", certain=True)
TOO_BIG = Death(reason=RejectReason.OUT_OF_MEMORY, message="needs more memory than --worker-memory", certain=True)
NO_MEMORY = Death(reason=RejectReason.OUT_OF_MEMORY, message="memory could not be allocated", certain=True)
STUCK = Death(reason=RejectReason.TIMEOUT, message="a worker did not get ready", certain=False)


def forkserver(job: Job) -> Any:
    """Return the forkserver context, started and told to import the job's heavy libraries once.

    One that knows these libraries is kept, though it may have been made ready for another job: its workers then make
    what they need themselves, which takes less than the imports would.
    """
    context = multiprocessing.get_context("forkserver")
    if not _preloaded.issuperset(job.preload):
        _preloaded.update(job.preload)
        # one that another stage started here knows too little: each worker would import torch by itself
        _forkserver._stop()  # type: ignore[attr-defined]  # noqa: SLF001
    context.set_forkserver_preload(sorted(_preloaded))
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts, so it has to start first
    # Ctrl-C is this process's matter: while it imports, the forkserver would print a traceback and die of it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    settings = {**ONE_THREAD, **ENVIRONMENT, **job.before_fork()}
    kept = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        ensure_running()
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


class Worker:
    """The run's handle on a worker.

    Args:
        job: what it is set up for.

    Raises:
        OSError, EOFError: the process could not be started.
    """

    def __init__(self, job: Job) -> None:
        context = forkserver(job)
        self._heartbeat = SharedHeartbeat()
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._heartbeat), daemon=True)
        try:
            with theirs, without_main():
                self._process.start()
            # not as an argument: a job of megabytes (a place for each row) that an interrupt cuts on its way is a
            # traceback of multiprocessing's, while here the worker ends without a word
            self.connection.send(job)
        except BaseException:
            self._heartbeat.close()
            self.connection.close()
            raise
        self.ready = False
        self.fresh = True
        """Whether it has done nothing yet."""
        self.idle = 0.0
        """Seconds since its last beat."""
        self._assignments = 0
        self._beat = Beat()
        self._death: Death | None = None

    @property
    def pid(self) -> int:
        """Process number."""
        return int(self._process.pid or 0)

    @property
    def sentinel(self) -> int:
        """Becomes readable when the process has ended."""
        return int(self._process.sentinel)

    @property
    def row(self) -> int:
        """The row it works on, or NO_ROW."""
        return self._beat.row if self._beat.assignment == self._assignments else NO_ROW

    @property
    def rows_done(self) -> int:
        """Rows of its assignment that it finished."""
        return self._beat.done if self._beat.assignment == self._assignments else 0

    def send(self, assignment: Assignment) -> None:
        """Send it on an assignment; that it is dead shows when its answer is read."""
        self._assignments += 1
        self.fresh, self.idle = False, 0.0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((self._assignments, assignment))

    def look(self, elapsed: float) -> None:
        """Read the heartbeat; `elapsed` seconds passed since the last look."""
        beat = self._heartbeat.read()
        if beat is None:
            return
        self.idle = 0.0 if beat.count != self._beat.count else self.idle + elapsed
        self._beat = beat

    def memory(self) -> int:
        """Return the bytes of memory that are its own: not those of files it maps. 0 where /proc does not tell."""
        try:
            _, resident, shared, *_ = Path(f"/proc/{self.pid}/statm").read_text().split()
        except (OSError, ValueError):
            return 0
        return (int(resident) - int(shared)) * _PAGE

    def kill(self, death: Death | None = None) -> None:
        """End it; `death` says why, for `reap`."""
        self._death = self._death or death
        if self._process.is_alive():
            self._process.kill()

    def reap(self) -> Death:
        """Wait for its end, close what belongs to it, and return how it ended."""
        self._process.join(_SECONDS_TO_END)
        self.kill()
        self._process.join(_SECONDS_TO_END)
        self.look(0.0)
        self.connection.close()
        self._heartbeat.close()
        return self._death or _death_of(self._process.exitcode)


def _death_of(code: int | None) -> Death:
    if code is None or code == _LOST_SERVER:
        return Death(reason=RejectReason.WORKER_CRASHED, message="the worker was lost", certain=False)
    if code >= 0:
        return Death(
            reason=RejectReason.WORKER_CRASHED, message=f"ended the worker with exit code {code}", certain=True
        )
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        message = "the worker was killed by the system (SIGKILL) each time it did this row: memory ran out"
        return Death(reason=RejectReason.OUT_OF_MEMORY, message=message, certain=False)
    return Death(
        reason=RejectReason.WORKER_CRASHED,
        message=f"crashed the worker ({name})",
        certain=-code not in _SENT_BY_OTHERS,
    )


# ---- inside the worker ----


def _serve(connection: Connection, heartbeat: SharedHeartbeat) -> None:
    """Take a job and set it up, then run assignments until the run is over."""
    _die_with_parent()
    make_own()
    try:
        data = _whole(connection)
        if data is None:
            return
        job: Job = pickle.loads(data)
        job.setup()
        settle_memory()
        connection.send(("ready", None))
        while True:
            number, assignment = connection.recv()
            heartbeat.begin(number)
            result = getattr(job, assignment.method)(
                assignment.task, assignment.folder, heartbeat, *assignment.arguments
            )
            heartbeat(NO_ROW)
            connection.send(("done", result))
    except EOFError:
        return
    except MemoryError:
        _tell(connection, ("memory", None))
    except Exception as error:
        _tell(connection, ("failed", _sendable(error)))


def _whole(connection: Connection) -> bytes | None:
    """Return what the run sends first; None where it ends before all of it is sent."""
    with contextlib.suppress(OSError, EOFError):
        return connection.recv_bytes()
    return None


def _tell(connection: Connection, last: tuple[str, object]) -> None:
    """Send a last word, to nobody if the run has ended meanwhile."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(last)


def _sendable(error: Exception) -> Exception:
    """Return the error as it can travel, with its traceback unless it is one that is explained to the user."""
    if isinstance(error, VlmPrepError):
        return error
    text = "".join(traceback.format_exception(error))
    try:
        travelled = pickle.loads(pickle.dumps(error))
    except Exception:  # errors of libraries may fail in any way here; their text is what counts
        travelled = RuntimeError(f"{type(error).__name__}: {error}")
    travelled.add_note(f"in a worker process:\n{text}")
    return travelled  # type: ignore[no-any-return]


def _die_with_parent() -> None:
    """End when the forkserver ends, as it does when the run is killed: a worker that lived on would finish its task
    beside the rerun, or hang for ever."""
    # the forkserver ends when nobody holds this pipe any more; it gives each worker a copy
    os.close(_forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]  # noqa: SLF001
    end_with_parent()


def settle_memory() -> None:
    """Take the libraries' objects (half a million) out of the garbage collector's sight: it would walk them again and
    again, a sixth of the time of tokenizing."""
    gc.collect()
    gc.freeze()
