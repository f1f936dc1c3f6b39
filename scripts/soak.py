"""Kill runs at random instants and compare every file with an undisturbed run: `make soak`.

Each round runs one command (ingest, tokenize with each payload, or pack; 1, 2 or 4 workers) and kills it at a random
instant: the main process, one of its workers, or its whole process group. After a kill of the main process or the
group the same command is run again and may be killed again; a killed worker must be replaced by the run itself. When
the command ends, every file of its folder must equal that of an undisturbed run. After the kills come rounds of
poison (rows that crash, hang or bloat a worker, with kills in between) and of damage (shards deleted or cut, and made
again). `--parts` does some of the three alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vlm_prep.builtin import builtin_data

PROCESSOR = "builtin:qwen2.5-vl-mini"
PLANTED = Path(__file__).parent.parent / "tests" / "engine" / "planted"
PARTS = ("kills", "poison", "damage")
STAGES = ("ingest", "tokenize", "tokenize:encoded", "tokenize:pixels", "pack")
WORKERS = (1, 2, 4)
_POISONED = """
import sys
sys.path.insert(0, sys.argv[1])
import poison_media
import vlm_prep.ingest.ingest_run as run
from pathlib import Path
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
if __name__ == "__main__":
    run.IngestJob = poison_media.PoisonedIngestJob
    options = RunOptions(out=Path(sys.argv[3]), workers=int(sys.argv[4]), progress=False, say=lambda line: None,
                         sample_timeout=5.0, worker_memory=400 << 20, max_reject_rate=1.0)
    run.ingest(open_samples(sys.argv[2]), IngestConfig(), options)
"""


@dataclass
class Tally:
    """What was killed, where, and what came of it."""

    kills: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By (stage, what was killed, phase)."""
    compared: int = 0
    different: list[str] = field(default_factory=list)

    def compare(self, label: str, out: Path, whole: Path) -> None:
        """Compare every file of two folders."""
        self.compared += 1
        if tree(out) != tree(whole):
            self.different.append(label)
            print(f"DIFFERENT: {label}: {out} and {whole}", flush=True)


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_source(folder: Path, copies: int) -> Path:
    """Write a meta JSON of the built-in rows, each `copies` times."""
    data = builtin_data()
    meta = json.loads(data.read_bytes())
    for entry in meta.values():
        entry["file_name"] = str(data.parent / entry["file_name"])
        entry["sample_ratio"] = copies
        if "media_dir" in entry:
            entry["media_dir"] = str(data.parent)
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder / "meta.json"


def command(stage: str, source: Path, out: Path, workers: int) -> list[str]:
    """Return a stage's command line; `tokenize:pixels` is tokenize with that payload."""
    stage, _, media = stage.partition(":")
    line = [sys.executable, "-m", "vlm_prep.cli.main", stage, str(source), "--out", str(out)]
    line += ["--workers", str(workers), "--quiet", "--max-reject-rate", "1"]
    if stage == "tokenize":
        line += ["--processor", PROCESSOR, "--fps", "2", "--media", media or "reference"]
    return line + (["--pack-length", "2048", "--world-size", "2"] if stage == "pack" else [])


def start(line: list[str]) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def phase(out: Path) -> str:
    """Say what a run is doing, by what is in its folder."""
    if (out / "manifest.json").exists():
        return "complete"
    if not (out / "_work" / "plan.json").exists():
        return "starting"
    if any(path.is_dir() and path.name != "_work" for path in out.iterdir()):
        return "finishing"
    if list((out / "_work" / "done").glob("task-*.json")):
        return "between tasks"
    return "first tasks" if list((out / "_work" / "shards").glob("*")) else "planning"


def workers_of(run: int) -> list[int]:
    """Return the workers of a run: the grandchildren below its forkserver."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    return [worker for child in parents.get(run, []) for worker in parents.get(child, [])]


def kill(run: subprocess.Popen[bytes], what: str, chance: random.Random) -> bool:
    """Kill the main process, a worker, or the group; return whether there was something to kill."""
    if run.poll() is not None:
        return False
    if what == "worker":
        found = workers_of(run.pid)
        if not found:
            return False
        try:
            os.kill(chance.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True
    if what == "main":
        run.kill()
    else:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return True


def disturbed(line: list[str], stage: str, out: Path, seconds: float, chance: random.Random, tally: Tally) -> None:
    """Run a command to its end, killing it or its workers up to four times on the way."""
    left = chance.randint(1, 4)
    while True:
        run, begun = start(line), time.monotonic()
        instants = sorted(chance.uniform(0, seconds) for _ in range(left))
        for instant in instants:
            what = chance.choice(("main", "worker", "worker", "group"))
            while time.monotonic() - begun < instant and run.poll() is None:
                time.sleep(0.001)
            now = phase(out) if out.exists() else "starting"
            if kill(run, what, chance):
                tally.kills[stage, what, now] += 1
                left -= 1
                if what != "worker":
                    break
        else:
            _, errors = run.communicate(timeout=600)
            if run.returncode:
                raise SystemExit(f"{' '.join(line)} ended with status {run.returncode}:\n{errors.decode()}")
            return
        if run.stderr is not None:
            run.stderr.close()


def undisturbed(line: list[str]) -> float:
    """Run a command; return its seconds."""
    begun = time.monotonic()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


Whole = tuple[Path, Path, float]
"""Of a stage: what it reads, what an undisturbed run made, and its seconds."""


def make_wholes(base: Path, copies: int, stages: list[str]) -> dict[str, Whole]:
    """Run each stage undisturbed."""
    source, wholes = write_source(base, copies), dict[str, Whole]()
    needed = {*stages, *(["tokenize"] if "pack" in stages else [])}
    for stage in (each for each in STAGES if each in needed):
        rows = wholes["tokenize"][1] if stage == "pack" else source
        whole = base / f"{stage}-whole"
        wholes[stage] = rows, whole, undisturbed(command(stage, rows, whole, 1))
    return wholes


def kill_rounds(
    given: argparse.Namespace, wholes: dict[str, Whole], stages: list[str], chance: random.Random, tally: Tally
) -> None:
    """Kill until `kills` are done, or the minutes over."""
    base, until = given.folder, time.monotonic() + 60 * given.minutes
    number = 0
    while sum(tally.kills.values()) < given.kills and time.monotonic() < until:
        stage, workers = stages[number % len(stages)], WORKERS[number // len(stages) % len(WORKERS)]
        rows, whole, seconds = wholes[stage]
        out = base / f"{stage}-{number}"
        before = sum(tally.kills.values())
        disturbed(command(stage, rows, out, workers), stage, out, seconds, chance, tally)
        tally.compare(f"{stage}, {workers} workers, round {number}", out, whole)
        done = sum(tally.kills.values())
        print(f"round {number:3}: {stage:<17}{workers} worker(s), {done - before} kill(s), {done} in all", flush=True)
        if not tally.different:
            shutil.rmtree(out)
        number += 1


def poison_rounds(base: Path, rounds: int, chance: random.Random, tally: Tally) -> None:
    """Ingest rows that crash, hang, bloat; with kills; for each number of workers."""
    sys.path.insert(0, str(PLANTED))
    import poison_media

    folder = base / "poison"
    folder.mkdir()
    shutil.copy(builtin_data().parent / "photos" / "chelsea.jpg", folder / "good.jpg")
    names: list[str] = []
    for kind in ("crash", "spin", "grow", "killed", "abort", "ask"):
        names += ["good.jpg"] * 90 + [poison_media.write_poison(folder, kind)]
    messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A cat."}]
    lines = [json.dumps({"messages": messages, "images": [name]}) for name in names]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def line(out: Path, workers: int) -> list[str]:
        code = [sys.executable, "-c", _POISONED, str(PLANTED)]
        return [*code, str(folder / "rows.jsonl"), str(out), str(workers)]

    whole = base / "poison-whole"
    seconds = undisturbed(line(whole, 1))
    for number in range(rounds):
        out, workers = base / f"poison-{number}", WORKERS[number % len(WORKERS)]
        disturbed(line(out, workers), "poison", out, seconds, chance, tally)
        tally.compare(f"poison, {workers} workers, round {number}", out, whole)
        print(f"poison round {number}: {workers} worker(s)", flush=True)


def damage_rounds(
    base: Path, rounds: int, wholes: dict[str, Whole], stages: list[str], chance: random.Random, tally: Tally
) -> None:
    """Damage shards of finished stores and have the same command make them again."""
    for number in range(rounds):
        stage = stages[number % len(stages)]
        rows, whole, _ = wholes[stage]
        out = base / f"damage-{number}"
        shutil.copytree(whole, out)
        shards = sorted(out.glob("*/data-*.arrow"))
        chosen = chance.sample(shards, chance.randint(1, len(shards)))
        for shard in chosen:
            if chance.random() < 0.5:
                shard.unlink()
            else:
                os.truncate(shard, chance.randrange(shard.stat().st_size))
        check = [sys.executable, "-m", "vlm_prep.cli.main", "verify", str(out), "--quiet"]
        found = subprocess.run(check, capture_output=True, text=True, check=False)
        unnamed = [shard.name for shard in chosen if shard.name not in found.stdout]
        if found.returncode != 2 or unnamed:
            tally.different.append(f"damage round {number}: verify did not name {unnamed}")
        undisturbed(command(stage, rows, out, WORKERS[number % len(WORKERS)]))
        tally.compare(f"damage, {stage}, round {number}", out, whole)
        print(f"damage round {number}: {stage}, {len(chosen)} of {len(shards)} shards", flush=True)


def main() -> None:
    """Run the rounds and print what was killed and where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of rounds of kills, whatever --kills says")
    parser.add_argument("--parts", default=",".join(PARTS), help="only these, with commas between them")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--copies", type=int, default=16, help="how often each of the 40 built-in rows is taken")
    parser.add_argument("--poison", type=int, default=6)
    parser.add_argument("--damage", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("out/soak"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    tally, begun = Tally(), time.monotonic()
    parts, stages = given.parts.split(","), [stage for stage in STAGES if stage in given.stages.split(",")]
    # each part has a chance of its own: done alone it is what it is among the others
    wholes = make_wholes(given.folder, given.copies, stages) if {"kills", "damage"} & set(parts) else {}
    if "kills" in parts:
        kill_rounds(given, wholes, stages, random.Random(f"kills {given.seed}"), tally)
    if "poison" in parts and given.poison:
        poison_rounds(given.folder, given.poison, random.Random(f"poison {given.seed}"), tally)
    if "damage" in parts:
        damage_rounds(given.folder, given.damage, wholes, stages, random.Random(f"damage {given.seed}"), tally)
    print(f"\n{'stage':<18}{'killed':<9}{'while':<15}times")
    for (stage, what, when), times in sorted(tally.kills.items()):
        print(f"{stage:<18}{what:<9}{when:<15}{times}")
    print(
        f"{sum(tally.kills.values())} kills, {tally.compared} folders compared file by file with undisturbed runs, "
        f"{len(tally.different)} different; {time.monotonic() - begun:.0f} s"
    )
    if tally.different:
        raise SystemExit("\n".join(tally.different))


if __name__ == "__main__":
    main()
