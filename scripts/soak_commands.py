"""Disturb every command at random and compare what it leaves with an undisturbed run: `make soak`.

ingest, tokenize with each payload, pack in each form and of a mix, retry, the parts of an array and finish, merge,
`tokenize --update` and `run --update`, export, gather, gc, view, push to and pull from a running S3 server, on
stores of a few rows. A command runs in a forked process and is, up to three times before it may end:

    killed       at a random instant; before, in or after its n-th write, fsync, rename or unlink
    failed       its n-th write, fsync or rename gives EIO, or ENOSPC as from then on, or writes half
    misled       its clock goes back a minute at each look
    stopped      for a second; some rounds for a minute
    taken over   by a process on another host, on a file system without locks, while it is killed or stopped

After each disturbance a reader must find either no store or a whole one. A command that fails must say so in one line.
In the end what is there must equal, file by file, what an undisturbed run makes. Every round is made again from the
seed and its number (`--only`). Rounds are played beside each other (`--jobs`): most of one's time is waiting, for a
disk, a server, or a process that stands still.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from soak_disturb import CALLS, DONE, SAID, chosen, disturbed, ended, faults_of, started, taken_over
from soak_list import Command, Step, commands_of

from vlm_prep.core.own_process import one_thread


@dataclass
class Tally:
    """What was done and what came of it."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (command, disturbance)."""
    compared: int = 0
    wrong: list[str] = field(default_factory=list)

    def fault(self, line: str) -> None:
        """Keep what is wrong."""
        self.wrong.append(line)
        print(f"WRONG: {line}", flush=True)

    def add(self, other: Tally) -> None:
        """Take in what another process did."""
        self.counts += other.counts
        self.compared += other.compared
        self.wrong += other.wrong

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(count for (_, what), count in self.counts.items() if what.startswith("killed"))


def play(name: str, command: Command, out: Path, chance: random.Random, known: Known, tally: Tally) -> None:
    """Do a round: disturb each step of a command, complete it, and compare."""
    log, label = out.with_suffix(".log"), f"{out.name}: {name}"
    command.begin(out)
    for number, work in enumerate(command.steps):
        seconds, calls = known.of[name][number]
        if command.shares and chance.random() < 0.1:
            what, wrong = taken_over(work, out, log, seconds, chance)
            tally.counts[name, what] += 1
            for line in wrong:
                tally.fault(f"{label}: {line}")
        else:
            for _ in range(chance.randint(1, 3)):
                each = chosen(chance, out, seconds, calls, known.minutes)
                status = disturbed(work, out, log, each)
                hit = status != DONE or each.stopped or each.name.startswith(("clock", "short"))
                tally.counts[name, each.name if hit else "ended before"] += 1
                if status not in (DONE, SAID, -signal.SIGKILL) or (status == SAID and each.stopped):
                    tally.fault(f"{label}: {each}: ended with {status}: {log.read_text()[-1500:]}")
                try:
                    command.look(out)
                except Exception as error:
                    tally.fault(f"{label}: {each}: a reader finds half a store: {error}")
        if (status := ended(started(work, out, log, {}))) != DONE:
            tally.fault(f"{label}: not completed, {status}: {log.read_text()[-1500:]}")
            return
    tally.compared += 1
    if (found := command.made(out)) != known.whole[name]:
        names = sorted(set(found.items()) ^ set(known.whole[name].items()))
        tally.fault(f"{label}: other files than an undisturbed run: {[each for each, _ in names][:6]}")
        return
    shutil.rmtree(out, ignore_errors=True)
    log.unlink(missing_ok=True)


@dataclass
class Known:
    """What undisturbed runs showed."""

    minutes: bool
    """Whether some rounds stop a process for a minute."""
    of: dict[str, list[tuple[float, dict[str, int]]]] = field(default_factory=dict)
    """Of each step of each command: its seconds, and how often it makes each call."""
    whole: dict[str, dict[str, str]] = field(default_factory=dict)


Learned = tuple[list[tuple[float, dict[str, int]]], dict[str, str]]


def learn(name: str, command: Command, base: Path, library: ctypes.CDLL) -> Learned:
    """Run a command undisturbed, in forked processes as the rounds do; return what `Known` holds of it."""
    out = base / f"whole {name}".replace(" ", "-").replace(",", "").replace(":", "")
    log = out.with_suffix(".log")
    command.begin(out)
    steps = []
    for work in command.steps:
        calls: dict[str, int] = {}
        for call in CALLS:  # one kind a run, each on a copy of its folder
            copy = out.with_name(f"{out.name}-{call}")
            shutil.copytree(out, copy) if out.exists() else None
            reading, writing = os.pipe()

            def counted(where: Path, work: Step = work, writing: int = writing) -> None:
                work(where)
                os.write(writing, str(library.faults_seen()).encode())

            begun = time.monotonic()
            status = ended(started(counted, copy, log, faults_of(call, "none", 1 << 30, copy)))
            os.close(writing)
            if status != DONE:
                raise SystemExit(f"{name} does not run: {log.read_text()}")
            if count := int(os.read(reading, 20)):
                calls[call] = count
            os.close(reading)
            shutil.rmtree(copy, ignore_errors=True)
            if name == "push":
                break  # it writes elsewhere
        steps.append((time.monotonic() - begun, calls))
        if (status := ended(started(work, out, log, {}))) != DONE:
            raise SystemExit(f"{name} does not run: {log.read_text()}")
    return steps, command.made(out)


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What each process that plays rounds has from the one that forked it."""

    base: Path
    seed: int
    commands: dict[str, Command]
    known: Known
    library: ctypes.CDLL

    def learned(self, name: str) -> Learned:
        """Run a command undisturbed."""
        return learn(name, self.commands[name], self.base, self.library)

    def round(self, number: int) -> Tally:
        """Play a round."""
        name = list(self.commands)[number % len(self.commands)]
        chance, tally = random.Random(f"{self.seed} {number} {name}"), Tally()
        play(name, self.commands[name], self.base / f"round-{number}", chance, self.known, tally)
        return tally


_soak: Soak


def _learned(name: str) -> Learned:
    return _soak.learned(name)


def _round(number: int) -> Tally:
    return _soak.round(number)


def begin(soak: Soak, jobs: int) -> ProcessPoolExecutor:
    """Fork processes that know what this one does."""
    global _soak
    _soak = soak
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"))


def played(pool: ProcessPoolExecutor, numbers: Iterator[int], jobs: int) -> Iterator[Tally]:
    """Yield what came of each round as it ends, as many at a time as there are processes."""
    running: set[Future[Tally]] = set()
    while True:
        running |= {pool.submit(_round, number) for number in itertools.islice(numbers, jobs - len(running))}
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from (each.result() for each in done)


@contextlib.contextmanager
def object_store(folder: Path, wanted: bool) -> Iterator[str | None]:
    """Yield the address of a bucket of a running S3 server; None without."""
    if not wanted:
        yield None
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from s3 import running

    folder.mkdir()
    with running(folder) as server:
        server.files.mkdir("soak")
        yield "s3://soak"


def with_faults(library: Path) -> ctypes.CDLL:
    """Begin again with the library of faults loaded before all others, unless it is."""
    if os.environ.get("LD_PRELOAD") != str(library):
        library.parent.mkdir(parents=True, exist_ok=True)
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        line = [sys.executable, *sys.argv]
        os.execve(sys.executable, line, {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"})
    return ctypes.CDLL(str(library))


def main() -> None:
    """Play the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--minutes", type=float, help="of rounds, whatever --kills says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this round alone")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="rounds at a time")
    parser.add_argument("--commands", help="only those whose names begin so, with commas between them")
    parser.add_argument("--no-server", action="store_true", help="push to and pull from a folder")
    parser.add_argument("--no-minutes", action="store_true", help="stop nothing for a minute")
    parser.add_argument("--folder", type=Path, default=Path("out/soak-commands"))
    given = parser.parse_args()
    base = given.folder.absolute()
    library = with_faults(base.with_name(f"{base.name}-faults") / "faults.so")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    one_thread()
    tally, begun = Tally(), time.monotonic()
    with object_store(base / "server", not given.no_server) as bucket:
        import fsspec

        fsspec.config.conf["file"] = {"auto_mkdir": True}
        wanted = tuple(given.commands.split(",")) if given.commands else ("",)
        made = commands_of(base, bucket)
        commands = {name: each for name, each in made.items() if name.startswith(wanted)}
        known = Known(minutes=not given.no_minutes)
        soak = Soak(base=base, seed=given.seed, commands=commands, known=known, library=library)
        with begin(soak, given.jobs) as pool:  # as busy as the rounds will be, so that seconds are as long
            for name, (steps, whole) in zip(commands, pool.map(_learned, commands), strict=True):
                known.of[name], known.whole[name] = steps, whole
        print(f"undisturbed runs: {time.monotonic() - begun:.0f} s", flush=True)
        over = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
        numbers = itertools.takewhile(
            lambda number: time.monotonic() < over and tally.kills < given.kills, itertools.count()
        )
        rounds = 0
        with begin(soak, given.jobs) as pool:
            for each in played(pool, numbers if given.only is None else iter([given.only]), given.jobs):
                tally.add(each)
                rounds += 1
                if rounds % 50 == 0:  # so that a run that is ended from outside has said what it found
                    show(tally, list(commands), given.seed, rounds, time.monotonic() - begun)
    show(tally, list(commands), given.seed, rounds, time.monotonic() - begun)
    if tally.wrong:
        raise SystemExit(1)


KINDS = ("killed", "EIO", "ENOSPC", "short", "clock", "stopped", "ended")


def show(tally: Tally, names: Sequence[str], seed: int, rounds: int, seconds: float) -> None:
    """Print the table of what was done so far."""
    print(f"\n{'command':<26}" + "".join(f"{kind:>9}" for kind in KINDS))
    for name in [*names, "all"]:
        sums = [
            sum(count for (of, what), count in tally.counts.items() if name in (of, "all") and what.startswith(kind))
            for kind in KINDS
        ]
        print(f"{name:<26}" + "".join(f"{count:>9}" for count in sums))
    print("\nof these:")
    by_kind = Counter[str]()
    for (_, what), count in tally.counts.items():
        by_kind[what] += count
    for what, count in sorted(by_kind.items()):
        print(f"  {what:<36}{count:>6}")
    print(
        f"seed {seed}, {rounds} rounds: {tally.kills} kills, {tally.compared} results compared file by file with "
        f"undisturbed runs, {len(tally.wrong)} wrong; {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
