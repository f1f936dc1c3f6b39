"""mosaicml-streaming's part of bench_stream.py, run by an interpreter that has it.

    python bench_stream_mds.py raw STORE OUT        prints best and median GB/s
    python bench_stream_mds.py samples TARS OUT     prints samples/s and tokens/s

Rows are the raw store's, read from its Arrow shards and written as MDS once; read shuffled in blocks by
StreamingDataset, each row copied once into the batch buffer. Samples are those of tars of .npy files; tokens are padded
and pixels laid into the batch as vlm-prep's collater does.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROW, BATCH, PASSES = 3_000_000, 16, 5
SAMPLES = 4
"""In a batch."""
NAMES = ("input_ids", "labels", "pixel_values")


def main() -> None:
    """Write the rows once, read them, print."""
    # beside a torch without CUDA, torchvision imports with our help alone
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from vlm_prep.processors.torchvision_cpu import ensure_torchvision

    ensure_torchvision()
    what, store, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) / Path(sys.argv[2]).name
    if not (out / "index.json").exists():
        (write if what == "raw" else write_samples)(store, out)
    if what == "samples":
        print(*read_samples(out))
        return
    rates = read(out)
    print(max(rates), statistics.median(rates))


def write_samples(tars: Path, out: Path) -> None:
    """Write the samples of tars as MDS."""
    from streaming import MDSWriter

    shutil.rmtree(out, ignore_errors=True)
    columns = dict.fromkeys(NAMES, "bytes")
    with MDSWriter(out=str(out), columns=columns, size_limit=1 << 28) as writer:
        for path in sorted(tars.glob("*.tar")):
            sample: dict[str, bytes] = {}
            with tarfile.open(path) as tar:
                for member in tar:
                    key, name = member.name.removesuffix(".npy").split(".", 1)
                    if sample and sample["key"] != key.encode():
                        writer.write({each: sample.get(each, b"") for each in NAMES})
                        sample = {}
                    file = tar.extractfile(member)
                    assert file is not None
                    array = np.load(io.BytesIO(file.read()))
                    sample |= {"key": key.encode(), name: array.tobytes()}
            writer.write({each: sample.get(each, b"") for each in NAMES})


def read_samples(out: Path) -> tuple[float, float]:
    """Return samples/s and tokens/s to the batch."""
    from streaming import StreamingDataset

    dataset: Any = StreamingDataset(local=str(out), shuffle=True, batch_size=SAMPLES, num_canonical_nodes=1)
    start, count, tokens = time.process_time(), 0, 0
    items = []
    for sample in dataset:
        items.append(sample)
        if len(items) == SAMPLES:
            tokens += collate(items)
            count += len(items)
            items = []
    seconds = time.process_time() - start
    return count / seconds, tokens / seconds


def collate(items: list[dict[str, bytes]]) -> int:
    """Pad ids and labels, lay pixels one after the other, and return the tokens."""
    rows = [[np.frombuffer(item[name], np.int32) for name in NAMES[:2]] for item in items]
    longest = max(len(ids) for ids, _ in rows)
    for column, fill in enumerate((0, -100)):
        padded = np.full((len(rows), longest), fill, np.int64)
        for number, row in enumerate(rows):
            padded[number, : len(row[column])] = row[column]
    np.concatenate([np.frombuffer(item[NAMES[2]], np.uint8) for item in items])
    return sum(len(ids) for ids, _ in rows)


def write(store: Path, out: Path) -> None:
    """Write the rows of `store` as MDS."""
    import pyarrow as pa
    from streaming import MDSWriter

    shutil.rmtree(out, ignore_errors=True)
    with MDSWriter(out=str(out), columns={"data": "bytes"}, size_limit=1 << 28) as writer:
        for shard in sorted((store / "train").glob("*.arrow")):
            for batch in pa.ipc.open_stream(pa.memory_map(str(shard))):
                for cell in batch.column("pixel_bytes"):
                    writer.write({"data": cell.values.to_numpy().tobytes()})


def read(out: Path) -> list[float]:
    """Return GB/s of each pass."""
    from streaming import StreamingDataset

    dataset: Any = StreamingDataset(local=str(out), shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
    buffer = np.zeros((BATCH, ROW), np.uint8)
    rates = []
    for _ in range(PASSES + 1):
        start, count = time.process_time(), 0
        for count, sample in enumerate(dataset, start=1):
            buffer[(count - 1) % BATCH] = np.frombuffer(sample["data"], np.uint8)
        rates.append(count * ROW / (time.process_time() - start) / 1e9)
    return rates[1:]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
