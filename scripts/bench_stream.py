"""Compare reading shards with the plain way and with other readers, on one core, in one run.

1. Raw rows: 3 MB of uint8, shuffled, each copied once into the batch buffer, as GB/s: a plain memory copy, a bare Arrow
   memory map, `ShardDataset` with its collater, Hugging Face datasets, mosaicml-streaming and webdataset over the
   same bytes. Passes alternate between the readers; a share compares each with the copy just before it. "new" readers
   open the store in each pass, as the first epoch of a run does; the others have mapped it before.
2. Samples: photographs and chats to the output of the collater, as samples/s and tokens/s: ours in each payload mode,
   the plain way (decode, and the full processor, in `__getitem__`), and the same payloads through the other readers:
   encoded with the same image processor behind them, pixels as bytes that the same collater lays into the batch.
3. Opening a store of 10,000 shards.

Rates are per second of this process's CPU time, on one core with all files in the page cache: what else runs on the
machine takes time on the clock, but is not counted.

mosaicml-streaming asks for older transformers and numpy than vlm-prep: give the interpreter of an environment of its
own (scripts/trainer_env.py) as --mds-python, or it is left out, and the output says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import torch
from bench_stream_stores import OUT, PATCH, ROW, pixel_store, raw_store, tiny_store

from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.shards.reader import Store
from vlm_prep.stream import Buffers, PadCollate, ShardDataset

BATCH = 16
Pass = Callable[[], int]
"""Reads everything once and returns bytes (or samples) read."""


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    raw_rows(arguments.rows, arguments.passes, arguments.mds_python)
    if (arguments.kit / "bench" / "make_corpus.py").exists():
        from bench_stream_samples import samples

        samples(arguments.kit, arguments.samples, arguments.plain, partial(mds, arguments.mds_python, "samples"))
    else:
        print(f"samples: left out, {arguments.kit} has no bench/make_corpus.py")
    opening(arguments.shards)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, default=Path("../shared/kit"), help="folder of real processors and photos")
    parser.add_argument("--rows", type=int, default=256, help="raw rows of 3 MB; keep them within the page cache")
    parser.add_argument("--passes", type=int, default=15)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--plain", type=int, default=200, help="samples for the plain way")
    parser.add_argument("--shards", type=int, default=10_000, help="in the store that is opened")
    parser.add_argument("--mds-python", help="a Python with mosaicml-streaming")
    return parser.parse_args()


def raw_rows(rows: int, passes: int, mds_python: str | None) -> None:
    """Print GB/s of each reader of raw rows."""
    store = raw_store(rows)
    order = np.random.default_rng(0).permutation(rows)
    # a run has its batches' memory since its first steps, also where it reads rows for the first time
    again, buffer = Buffers(reuse=1), np.zeros((BATCH, ROW), np.uint8)
    readers: dict[str, Pass] = {
        "plain memory copy": plain_copy(rows, order),
        "bare Arrow memory map": arrow_map(store, order),
        "bare Arrow memory map, new": lambda: arrow_map(store, order, buffer)(),
        "ours, payload pixels": ours_rows(rows),
        "ours, payload pixels, batches": ours_pixels(rows),
        "ours, payload pixels, batches, new": lambda: ours_pixels(rows, again)(),
        "ours, a column of bytes, batches": ours(store),
        "HF datasets": hf_datasets(store, order),
        "webdataset": webdataset_rows(store, rows),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    copies: dict[str, list[float]] = {name: [] for name in readers}
    copy = plain_copy(rows, order)
    for read in readers.values():
        read()
    for _ in range(passes):
        for name, read in readers.items():
            # beside each: what a copy takes changes from one second to the next on a machine that others use
            copies[name].append(_speed(copy))
            rates[name].append(_speed(read))
    print(f"raw rows: {rows} of {ROW / 1e6:.0f} MB, shuffled, batches of {BATCH}, one core")
    print(f"  {'GB/s':<36}   best median   share of the copy beside it (median over passes, quartiles)")
    for name, values in rates.items():
        shares = [value / beside for value, beside in zip(values, copies[name], strict=True)]
        low, share, high = statistics.quantiles(shares, n=4)
        rate = f"{max(values):6.2f} {statistics.median(values):6.2f}"
        print(f"  {name:<36} {rate}   {share:5.0%}   ({low:.0%} to {high:.0%})")
    reference = statistics.median(value for values in copies.values() for value in values)
    print(f"  {'mosaicml-streaming':<36} {_mds_rates(mds(mds_python, 'raw', store), reference)}", flush=True)


def _mds_rates(found: str, reference: float) -> str:
    try:
        best, middle = (float(value) for value in found.split())
    except ValueError:
        return found
    return f"{best:6.2f} {middle:6.2f}   {middle / reference:5.0%}"


def _speed(read: Pass) -> float:
    start = time.process_time()
    count = read()
    return count / (time.process_time() - start) / 1e9


def ours_rows(rows: int) -> Pass:
    """Copy the rows of `ShardDataset` alone, as the other readers' are."""
    dataset = ShardDataset(pixel_store(rows), pixels="bytes")
    sampler = dataset.sampler()
    buffer = np.zeros((BATCH, ROW // PATCH, PATCH), np.uint8)
    return lambda: fill(
        (item["pixel_values"].arrays[0] for batch in batched(sampler) for item in dataset.__getitems__(batch)), buffer
    )


def batched(picks: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of BATCH."""
    rest = iter(picks)
    while batch := list(islice(rest, BATCH)):
        yield batch


def ours_pixels(rows: int, buffers: Buffers | None = None) -> Pass:
    """Read pictures as training on a device does: bytes, laid into the batch's buffer."""
    dataset = ShardDataset(pixel_store(rows), pixels="bytes")
    collate = PadCollate.for_store(dataset, buffers=buffers or Buffers(reuse=1))
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, sampler=dataset.sampler(), collate_fn=collate)
    return lambda: sum(batch["pixel_values_uint8"].numel() for batch in loader)


def fill(rows: Iterator[Any], buffer: Any) -> int:
    """Copy rows into the batch buffer, batch after batch, and return the bytes."""
    count = 0
    for count, row in enumerate(rows, start=1):
        buffer[(count - 1) % BATCH] = row
    return count * ROW


def plain_copy(rows: int, order: Any) -> Pass:
    """Copy rows of one array in memory."""
    source = np.empty((rows, ROW), np.uint8)
    source[:] = 7
    buffer = np.zeros((BATCH, ROW), np.uint8)
    return lambda: fill((source[row] for row in order), buffer)


def arrow_map(store: Path, order: Any, buffer: Any = None) -> Pass:
    """Copy rows of record batches that pyarrow alone has mapped."""
    import pyarrow as pa

    parts = []
    for shard in sorted((store / "train").glob("*.arrow")):
        for batch in pa.ipc.open_stream(pa.memory_map(str(shard))):
            column = batch.column("pixel_bytes")
            offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
            parts += [values[start:stop] for start, stop in pairwise(offsets)]
    into = np.zeros((BATCH, ROW), np.uint8) if buffer is None else buffer
    return lambda: fill((parts[row] for row in order), into)


def ours(store: Path) -> Pass:
    """Read as training does: sampler, rows, collater; the batch's buffer is used again."""
    dataset = ShardDataset(store, pixels=False)
    collate = PadCollate.for_store(dataset, buffers=Buffers(reuse=1))
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, sampler=dataset.sampler(), collate_fn=collate)
    return lambda: sum(batch["pixel_bytes"].numel() for batch in loader)


def hf_datasets(store: Path, order: Any) -> Pass:
    """Read the same shards with Hugging Face datasets, as arrow cells without Python lists."""
    from datasets import Dataset, concatenate_datasets

    files = sorted((store / "train").glob("*.arrow"))
    dataset = concatenate_datasets([Dataset.from_file(str(file)) for file in files]).with_format("arrow")
    buffer = np.zeros((BATCH, ROW), np.uint8)
    column = "pixel_bytes"
    return lambda: fill((dataset[int(row)][column].chunk(0).flatten().to_numpy() for row in order), buffer)


def webdataset_rows(store: Path, rows: int) -> Pass:
    """Read the same rows from tars, shuffled by webdataset."""
    import io
    import tarfile

    import webdataset

    folder = OUT / f"raw-{rows}-tar"
    if not folder.exists():
        partial = folder.with_name("partial-tar")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for index, shard in enumerate(Store(store).shards):
            with tarfile.open(partial / f"{index:06d}.tar", "w") as tar:
                for number in range(len(shard)):
                    member = tarfile.TarInfo(f"{index:06d}{number:06d}.bin")
                    member.size = ROW
                    tar.addfile(member, io.BytesIO(shard.row(number)["pixel_bytes"].tobytes()))
        partial.rename(folder)
    buffer = np.zeros((BATCH, ROW), np.uint8)
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]

    def read() -> int:
        dataset = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(16)
        return fill((np.frombuffer(sample["bin"], np.uint8) for sample in dataset), buffer)

    return read


def mds(python: str | None, what: str, store: Path) -> str:
    """Return mosaicml-streaming's two figures, measured in its own environment on the same core, or why not."""
    if python is None:
        return "left out: no --mds-python (scripts/trainer_env.py mosaicml-streaming makes one)"
    script = Path(__file__).with_name("bench_stream_mds.py")
    line = [python, str(script), what, str(store), str(OUT / "mds")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(line, capture_output=True, text=True, env=environment)
    if run.returncode:
        return "failed: " + run.stderr.strip().splitlines()[-1]
    return " ".join(run.stdout.split()[-2:])


def opening(shards: int) -> None:
    """Print how long a store of many tiny shards takes to open, and a first batch."""
    store = tiny_store(shards)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        dataset = ShardDataset(store, pixels=False)
        opened = time.perf_counter()
        [dataset[index] for index in range(8)]
        times.append((opened - start, time.perf_counter() - opened))
    best, first = min(times)
    print(f"opening {shards:,} shards: {best:.2f} s, then {first * 1000:.0f} ms to the first 8 rows")


if __name__ == "__main__":
    ensure_torchvision()
    main()
