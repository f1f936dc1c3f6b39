"""Disturb every command at random and compare what it leaves with an undisturbed run: `make soak`.

ingest, tokenize with each payload, pack in each form, retry, the parts of an array and finish, push to and pull from a
running S3 server, and view, on stores of a few rows. A command runs in a forked process and is, up to three times
before it may end:

    killed       at a random instant; before, in or after its n-th write, fsync, rename or unlink
    failed       its n-th write, fsync or rename gives EIO, or ENOSPC as from then on, or writes half
    misled       its clock goes back a minute at each look
    stopped      for a second; some rounds for a minute
    taken over   by a process on another host, on a file system without locks, while it is killed or stopped

After each disturbance a reader must find either no store or a whole one. A command that fails must say so in one line.
In the end what is there must equal, file by file, what an undisturbed run makes. Every round is made again from the
seed and its number (`--only`).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from PIL import Image
from soak import tree

from vlm_prep.core.errors import StoreError, VlmPrepError
from vlm_prep.core.own_process import one_thread
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine import lock
from vlm_prep.engine.array_parts import Part
from vlm_prep.engine.retry_rejects import settle
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest, retry_ingest
from vlm_prep.ingest.source import Samples, open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.reader import Store
from vlm_prep.shards.transfer import pull, push
from vlm_prep.tokenize.tokenize_run import retry_tokenize, tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
ROWS = 12
STALE_SECONDS, BEAT_SECONDS = 1.0, 0.1
"""Of a lock on another host, in place of two minutes and ten seconds."""
CALLS = ("write", "fsync", "rename", "unlink")
DONE, SAID = 0, 3
_LONGEST = 300.0

Step = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command and what it is to leave."""

    steps: Sequence[Step]
    begin: Step = lambda out: None
    """Makes what it starts from."""
    made: Callable[[Path], dict[str, str]] = tree
    look: Callable[[Path], None] = lambda out: None
    """Raises if what is there is neither nothing nor whole."""
    shares: bool = True
    """Whether another host may take it over."""


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

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(count for (_, what), count in self.counts.items() if what.startswith("killed"))


# ---- commands ----


def write_rows(folder: Path, *, missing: bool) -> Path:
    """Write rows with tiny pictures; with `missing` some of the pictures are not there."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(ROWS):
        turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": f"Thing {number}."}]
        rows.append({"messages": turns, "images": [f"{number}.png"]})
        if not (missing and number in (2, 5, 7)) and number != 9:
            Image.new("RGB", (28 + number, 28), (number * 20, 0, 90)).save(folder / f"{number}.png")
    (folder / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder / "rows.jsonl"


def options(out: Path, **settings: Any) -> RunOptions:
    """Return how a stage runs: in this process, silent."""
    return RunOptions(out=out, workers=0, progress=False, max_reject_rate=1.0, say=lambda line: None, **settings)


def whole_or_nothing(out: Path) -> None:
    """See that a folder holds no store or a whole one."""
    if (out / "manifest.json").exists():
        Store(out, verify=True)
        return
    with contextlib.suppress(StoreError):
        Store(out)
        raise AssertionError(f"{out} opens without a manifest")


def commands_of(base: Path, bucket: str | None) -> dict[str, Command]:
    """Return the commands, with what they start from in `base`."""
    rows = write_rows(base / "rows", missing=False)
    samples = open_samples(rows)
    found: dict[str, Command] = {}

    def add(name: str, *steps: Step, **more: Any) -> None:
        found[name] = Command(steps=steps, **{"look": whole_or_nothing, **more})

    add("ingest", lambda out: ingest(samples, IngestConfig(), options(out)))
    for media in ("reference", "encoded", "pixels"):
        settings = TokenizeConfig(media=media, max_image_pixels=10**6)
        add(f"tokenize {media}", partial(_tokenize, samples, settings))
    made = base / "tokenized"
    _tokenize(samples, TokenizeConfig(media="encoded", max_image_pixels=10**6), made)
    ranks = PackConfig(pack_length=64, world_size=2)
    for name, packed in (
        ("ranks", ranks),
        ("index", replace(ranks, layout="index")),
        ("tars", replace(ranks, format="webdataset")),
    ):
        add(f"pack {name}", partial(_pack, made, packed))
    add("pack again", partial(_fresh_pack, made, ranks), begin=partial(_pack, made, PackConfig(pack_length=128)))
    _add_parts(add, samples)
    _add_retries(add, base)
    page = partial(_view, made)
    add("view", page, begin=lambda out: out.mkdir(exist_ok=True), look=_whole_page, shares=False)
    _add_copies(add, made, bucket or f"file://{base}/bucket")
    return found


def _tokenize(samples: Samples, config: TokenizeConfig, out: Path) -> None:
    tokenize(samples, PROCESSOR, config, options(out))


def _pack(source: Path, config: PackConfig, out: Path) -> None:
    pack(source, config, options(out))


def _fresh_pack(source: Path, config: PackConfig, out: Path) -> None:
    pack(source, config, options(out, fresh=True))


def _add_parts(add: Callable[..., None], samples: Samples) -> None:
    def steps(run: Callable[[RunOptions], object]) -> list[Step]:
        parts = [lambda out, number=number: run(options(out, part=Part(number=number, count=2))) for number in (1, 2)]
        return [*parts, lambda out: run(options(out))]

    settings = TokenizeConfig(max_image_pixels=10**6)
    add("parts, finish: ingest", *steps(lambda how: ingest(samples, IngestConfig(), how)), shares=False)
    add("parts, finish: tokenize", *steps(lambda how: tokenize(samples, PROCESSOR, settings, how)), shares=False)


def _add_retries(add: Callable[..., None], base: Path) -> None:
    rows = write_rows(base / "repaired", missing=True)
    ingest(open_samples(rows), IngestConfig(), options(base / "ingest-before"))
    tokenize(open_samples(rows), PROCESSOR, TokenizeConfig(max_image_pixels=10**6), options(base / "tokenize-before"))
    for number in (2, 5, 7):
        Image.new("RGB", (40, 28), (0, number, 0)).save(rows.parent / f"{number}.png")
    samples, reasons = open_samples(rows), ["missing_file"]

    def again(run: Callable[[RunOptions], object], out: Path) -> None:
        if not settle(out, lambda line: None):
            run(options(out))

    ingested = partial(again, lambda how: retry_ingest(samples, reasons, how))
    tokenized = partial(again, lambda how: retry_tokenize(samples, PROCESSOR, reasons, how))
    for stage, work in (("ingest", ingested), ("tokenize", tokenized)):
        start = base / f"{stage}-before"
        add(f"retry {stage}", work, begin=lambda out, start=start: shutil.copytree(start, out))


def _view(store: Path, out: Path) -> None:
    from vlm_prep.cli.main import app

    app(["view", str(store), "--out", str(out / "page.html"), "--quiet"], standalone_mode=False)


def _whole_page(out: Path) -> None:
    page = out / "page.html"
    if page.exists() and not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise AssertionError(f"{page} is cut")


def _add_copies(add: Callable[..., None], store: Path, bucket: str) -> None:
    def place(out: Path) -> str:
        return f"{bucket}/{out.name}"

    def there(out: Path) -> dict[str, str]:
        import fsspec

        files, root = fsspec.url_to_fs(place(out), use_listings_cache=False)
        shutil.rmtree(out, ignore_errors=True)
        for path in files.find(root) if files.exists(root) else ():
            target = out / path.removeprefix(f"{root}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files.cat_file(path))
        return tree(out)

    def look(out: Path) -> None:
        found = there(out)
        if "manifest.json" in found and found != tree(store):
            raise AssertionError(f"{place(out)} has a manifest and is not whole")
        shutil.rmtree(out, ignore_errors=True)

    push(store, f"{bucket}/there", lambda line: None)
    add("push", lambda out: push(store, place(out), lambda line: None), made=there, look=look, shares=False)
    add("pull", lambda out: pull(f"{bucket}/there", out, lambda line: None), shares=False)


# ---- disturbing ----


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
        return Disturbance(name="clock goes back", faults=_faults("clock", "back", 1, out))
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
        return Disturbance(name=f"killed {when} a {call}", faults=_faults(call, when, nth, out))
    fails = chance.choice(("EIO", "ENOSPC", *(("short",) if call == "write" else ())))
    return Disturbance(name=f"{fails} at a {call}", faults=_faults(call, fails, nth, out))


def _faults(call: str, kind: str, nth: int, out: Path) -> dict[str, str]:
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


def learn(name: str, command: Command, base: Path, known: Known, library: ctypes.CDLL) -> None:
    """Run a command undisturbed, in forked processes as the rounds do."""
    out, log = base / f"whole {name}".replace(" ", "-").replace(",", "").replace(":", ""), base / "whole.log"
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
            status = ended(started(counted, copy, log, _faults(call, "none", 1 << 30, copy)))
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
    known.of[name], known.whole[name] = steps, command.made(out)


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this round alone")
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
        for name, command in commands.items():
            learn(name, command, base, known, library)
        number = given.only or 0
        while tally.kills < given.kills if given.only is None else number == given.only:
            name = list(commands)[number % len(commands)]
            chance = random.Random(f"{given.seed} {number} {name}")
            play(name, commands[name], base / f"round-{number}", chance, known, tally)
            number += 1
            if number % 50 == 0:
                print(f"{number} rounds, {tally.kills} kills, {len(tally.wrong)} wrong", flush=True)
    show(tally, list(commands), given.seed, number, time.monotonic() - begun)


KINDS = ("killed", "EIO", "ENOSPC", "short", "clock", "stopped", "ended")


def show(tally: Tally, names: Sequence[str], seed: int, rounds: int, seconds: float) -> None:
    """Print the table; fail where something is wrong."""
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
        f"undisturbed runs, {len(tally.wrong)} wrong; {seconds:.0f} s"
    )
    if tally.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
