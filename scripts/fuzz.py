"""Change inputs at random and see that each ends as written, a named reject or a refusal: `make fuzz`.

A target reads one kind of input that somebody else wrote: manifests, shards, tars, rejects, notes of the work folder,
names and listings of a bucket, saved positions (`fuzz_stores.py`); data files, tables, meta files, archives, addresses,
run files, mixes, mappings, chat templates (`fuzz_inputs.py`); pictures, sound and videos (`fuzz_media.py`).
From real seeds the mutator makes others (flipped, cut, doubled and spliced bytes; leaves of JSON replaced by what does
not belong there). A traceback, a death by a signal, more than 20 s, more than 4 GiB, or a file written outside of the
target's folder is a fault: its input is kept, and is made again from the printed seed.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fuzz_inputs
import fuzz_media
import fuzz_stores
import orjson
from every_byte import make_stores
from fuzz_target import STORES, TARGETS, Target

from vlm_prep.core.errors import Reject, VlmPrepError

assert fuzz_inputs and fuzz_media and fuzz_stores  # they register their targets
SECONDS = 20
MEMORY = 4 << 30


# ---- changing ----

_NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 1e308, 1.5, "", "../../x", "/etc/passwd", "\x1b"),
    *([], {}, [[]], {"": {}}, "x" * 10_000, "\ud83d\ude00", "xxh3:" + "f" * 32),
)
_WORDS = (b"\x00", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x80", b"../", b"\n", b'"', b"\\u0000", b"[" * 200, b"-", b"1e9")


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Return another input, made of the seeds."""
    data = chance.choice(seeds)
    if data[:1] in (b"{", b"[") and chance.random() < 0.7:
        with contextlib.suppress(ValueError, TypeError):
            return orjson.dumps(_other_leaf(orjson.loads(data), chance), option=orjson.OPT_INDENT_2)
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(found) + 1)
        match chance.randrange(6):
            case 0 if found:
                found[place % len(found)] ^= 1 << chance.randrange(8)
            case 1:
                del found[place:]
            case 2:
                del found[place : place + chance.choice((1, 8, 100))]
            case 3:
                found[place:place] = chance.choice(_WORDS)
            case 4:
                word = chance.choice(_WORDS)
                found[place : place + len(word)] = word
            case _:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                found[place : place + 64] = other[start : start + 64]
    return bytes(found)


def _other_leaf(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: _other_leaf(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], _other_leaf(value[place], chance), *value[place + (chance.random() < 0.9) :]]
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice((-1, 1, 8, -8, 2**31))
    return chance.choice(_NASTY)


# ---- running ----


def attempt(each: Target, data: bytes, folder: Path) -> str | None:
    """Return what is wrong with how an input ends; None where it ends as it should."""
    shutil.rmtree(folder.parent.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["VLM_PREP_CACHE"] = str(folder / "cache")
    signal.alarm(SECONDS)
    try:
        each.check(data, folder)
    except (VlmPrepError, Reject) as error:
        if "\n" in error.message and "what differs" not in error.message:
            return f"a message of several lines: {error.message[:200]!r}"
    except OSError as error:
        # one that names its file is a line to who gives a command; so a name that is too long
        return None if error.filename is not None else traceback.format_exc()[-2000:]
    except BaseException:
        return traceback.format_exc()[-2000:]
    finally:
        signal.alarm(0)
    outside = [path for path in folder.parent.parent.rglob("*") if folder not in (path, *path.parents)]
    strange = [path for path in outside if path != folder.parent]
    return f"written outside: {strange}" if strange else None


def run(each: Target, seed: int, seconds: float, most: int, base: Path) -> tuple[int, list[int]]:
    """Run a target for so long, or on so many inputs; return how many it was given and the numbers of faulty ones."""
    counter, faults = mmap.mmap(-1, 8), []
    seeds, over, number = each.seeds(), time.monotonic() + seconds, 0
    while time.monotonic() < over and number < most:
        child = os.fork()
        if child == 0:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            while time.monotonic() < over and number < most:
                counter[:] = number.to_bytes(8, "little")
                data = mutated(seeds, random.Random(f"{each.name} {seed} {number}"))
                if fault := attempt(each, data, base / "sandbox" / "a" / "b"):
                    print(f"{each.name} {number}: {fault}", flush=True)
                    os._exit(3)
                number += 1
            counter[:] = number.to_bytes(8, "little")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        number = int.from_bytes(counter[:], "little")
        if status:
            if os.WIFSIGNALED(status):
                print(f"{each.name} {number}: signal {os.WTERMSIG(status)}", flush=True)
            faults.append(number)
            data = mutated(seeds, random.Random(f"{each.name} {seed} {number}"))
            (base / f"{each.name}-{seed}-{number}").write_bytes(data)
            number += 1
    return number, faults


def main() -> None:
    """Run the targets in turn and print a table; fail on a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of all targets together")
    parser.add_argument("--inputs", type=float, help="in place of minutes: so many times a target's own small number")
    parser.add_argument("--part", default="1/1", help="2/4: the second of four parts of the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", help="only these, with commas between them")
    parser.add_argument("--folder", type=Path, default=Path("out/fuzz"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    base = given.folder.absolute()
    part, parts = map(int, given.part.split("/"))
    wanted = given.targets.split(",") if given.targets else list(TARGETS)
    chosen = [each for each in TARGETS.values() if each.name in wanted][part - 1 :: parts]
    if any(each.check.__module__ == fuzz_stores.__name__ for each in chosen):
        STORES.update(make_stores(base / "stores"))
    base.mkdir(parents=True, exist_ok=True)
    seconds = float("inf") if given.inputs else 60 * given.minutes / len(chosen)
    found = []
    for each in chosen:
        most = round(given.inputs * each.few) if given.inputs else sys.maxsize
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        number, faults = run(each, given.seed, seconds, most, base)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append((each.name, number, faults, ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime))
    print(f"{'target':<12}{'inputs':>10}{'faults':>8}{'s, CPU':>10}")
    for name, count, faults, cpu in found:
        print(f"{name:<12}{count:>10,}{len(faults):>8}{cpu:>10.1f}")
    if any(faults for _, _, faults, _ in found):
        sys.exit(f"faults: their inputs are in {given.folder}")


if __name__ == "__main__":
    main()
