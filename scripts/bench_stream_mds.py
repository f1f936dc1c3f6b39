"""mosaicml-streaming's part of bench_stream.py, run by an interpreter that has it.

    python bench_stream_mds.py raw STORE OUT      prints best and median GB/s

Rows are the raw store's, read from its Arrow shards and written as MDS once; read shuffled in blocks by
StreamingDataset, each row copied once into the batch buffer.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROW, BATCH, PASSES = 3_000_000, 16, 5


def main() -> None:
    """Write the rows once, read them, print."""
    store, out = Path(sys.argv[2]), Path(sys.argv[3]) / Path(sys.argv[2]).name
    if not (out / "index.json").exists():
        write(store, out)
    rates = read(out)
    print(max(rates), statistics.median(rates))


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
