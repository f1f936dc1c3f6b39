"""Let disks fail, clocks go back, processes stand still, and compare every file with an undisturbed run: `make soak`.

Each round runs one command (ingest, tokenize with each payload, pack by rank and as an index) while the n-th write,
fsync or rename below its folder fails with EIO or ENOSPC or writes half, in every process of the run (`faults.c`, built
here); or while its clock goes back a minute at each look; or it is stopped for seconds (SIGSTOP). A command that fails
must say so in one message, without a traceback, and the same command without the fault must complete the folder; what
comes out must equal, file by file, what an undisturbed run makes.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from soak import command, start, tree, undisturbed, write_source

FORMS = ("ingest", "tokenize:reference", "tokenize:encoded", "tokenize:pixels", "pack", "pack:index")
FAULTS = (
    *((call, kind) for call in ("write", "fsync", "rename") for kind in ("EIO", "ENOSPC")),
    *(("write", "short"), ("clock", "back"), ("process", "stopped")),
)


def line_of(form: str, source: Path, tokenized: Path, out: Path, workers: int) -> list[str]:
    """Return the command line of a form."""
    stage, _, variant = form.partition(":")
    line = command(stage, tokenized if stage == "pack" else source, out, workers)
    if stage == "tokenize":
        line[line.index("--media") + 1] = variant
    return [*line, "--layout", "index"] if variant == "index" else line


def with_fault(line: list[str], out: Path, library: Path, call: str, kind: str, nth: int) -> tuple[int, str]:
    """Run a command with a fault; return its status and what it said."""
    faults = {"FAULT_CALL": call, "FAULT_KIND": kind, "FAULT_NTH": str(nth), "FAULT_UNDER": str(out)}
    ended = subprocess.run(
        line,
        env={**os.environ, "LD_PRELOAD": str(library), **faults},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=900,
        check=False,
    )
    return ended.returncode, ended.stderr


def stopped(line: list[str], seconds: float, chance: random.Random) -> tuple[int, str]:
    """Run a command and stop all of its processes for a while."""
    run = start(line)
    time.sleep(chance.uniform(0.5, seconds))
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGSTOP)
        time.sleep(3)
        os.killpg(run.pid, signal.SIGCONT)
    _, said = run.communicate(timeout=900)
    return run.returncode, said.decode()


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no round after so long")
    parser.add_argument("--copies", type=int, default=8, help="how often each of the 40 built-in rows is taken")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("out/soak-faults"))
    given = parser.parse_args()
    base, forms = given.folder.absolute(), given.forms.split(",")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    library = base / "faults.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name("faults.c"), "-ldl"], check=True
    )
    source, chance, begun = write_source(base, given.copies), random.Random(given.seed), time.monotonic()
    tokenized = base / "tokenize:encoded-whole"
    wholes, seconds = {}, {}
    for form in dict.fromkeys(("tokenize:encoded", *forms)):
        whole = base / f"{form}-whole"
        seconds[form] = undisturbed(line_of(form, source, tokenized, whole, 1))
        wholes[form] = tree(whole)
    table: Counter[tuple[str, str, str]] = Counter()
    wrong: list[str] = []
    for number in range(given.rounds):
        if time.monotonic() - begun > 60 * given.minutes:
            break
        form, (call, kind) = forms[number % len(forms)], chance.choice(FAULTS)
        out, nth, workers = base / f"round-{number}", chance.choice((1, 2, 3, 5, 8, 13, 21, 34)), chance.choice((1, 2))
        line, label = line_of(form, source, tokenized, out, workers), f"round {number}: {form}, {call} {nth} {kind}"
        if call == "process":
            status, said = stopped(line, seconds[form], chance)
        else:
            status, said = with_fault(line, out, library, call, kind, nth)
        if "Traceback" in said or (status and len(re.findall("^error: ", said, re.MULTILINE)) != 1):
            wrong.append(f"{label}: {said[-1500:]}")
        if status and call in ("clock", "process"):
            wrong.append(f"{label}: ended with {status}: {said[-1500:]}")
        if status:
            undisturbed(line)
        if tree(out) != wholes[form]:
            wrong.append(f"{label}: another folder than that of an undisturbed run: {out}")
        else:
            shutil.rmtree(out)
        table[form, f"{call} {kind}", "said and continued" if status else "went through"] += 1
        print(f"{label}: status {status}", flush=True)
    print(f"\n{'command':<20}{'fault':<18}{'outcome':<20}times")
    for (form, what, outcome), times in sorted(table.items()):
        print(f"{form:<20}{what:<18}{outcome:<20}{times}")
    print(f"{table.total()} rounds, seed {given.seed}, {len(wrong)} wrong; {time.monotonic() - begun:.0f} s")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
