"""Time and memory of inputs that are small and become large, long or many: `make bombs`.

Each is given to `open_samples` and its first rows are read, in a process of its own, whose seconds and largest memory
are printed with what came of it.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import os
import resource
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm_prep.core.errors import Reject, VlmPrepError
from vlm_prep.core.records import Media, Sample
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.probe import probe

ROW = b'{"messages": [{"role": "user", "content": "Q%d?"}, {"role": "assistant", "content": "A."}]}\n'
Make = Callable[[Path], Path]


def rows(path: Path) -> str:
    """Open rows and read some; return what came of it."""
    samples = open_samples(path)
    found = [samples.read(start, start + 1) for start in sorted({0, len(samples) // 2, len(samples) - 1})]
    read = [type(each).__name__ if isinstance(each, Sample) else each.reason for part in found for each in part]
    return f"{len(samples):,} rows; {', '.join(read)}"


def picture(path: Path) -> str:
    """Probe a picture, decoding it."""
    header = probe(Media(kind="image", uris=(str(path),)), decode=True)[0].header
    return "" if header is None else f"{header.width} x {header.height}"


def zeros(end: str, count: int) -> Make:
    """Return what makes blanks of a size, compressed."""

    def make(folder: Path) -> Path:
        path, block = folder / f"blanks.jsonl.{end}", b" " * (1 << 24)
        opened: dict[str, Callable[..., Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        with pa.CompressedOutputStream(str(path), "zstd") if end == "zst" else opened[end](path, "wb") as file:
            for _ in range(count // len(block)):
                file.write(block)
        return path

    return make


def long_line(folder: Path) -> Path:
    """One row with a text of 1 GB, and one behind it."""
    with open(folder / "long.jsonl", "wb") as file:
        file.write(b'{"messages": [{"role": "user", "content": "')
        for _ in range(1000):
            file.write(b"word " * 200_000)
        file.write(b'"}, {"role": "assistant", "content": "A."}]}\n' + ROW % 1)
    return folder / "long.jsonl"


def many_rows(folder: Path) -> Path:
    """Ten million rows of 95 bytes."""
    with open(folder / "many.jsonl", "wb", buffering=1 << 24) as file:
        for start in range(0, 10_000_000, 10_000):
            file.write(b"".join(ROW % number for number in range(start, start + 10_000)))
    return folder / "many.jsonl"


def deep(folder: Path) -> Path:
    """A row of ten million brackets between two others."""
    (folder / "deep.jsonl").write_bytes(ROW % 1 + b'{"messages": ' + b"[" * 10_000_000 + b"\n" + ROW % 2)
    return folder / "deep.jsonl"


def wide(folder: Path) -> Path:
    """A row with a million keys."""
    keys = {f"key{number}": number for number in range(1_000_000)}
    (folder / "wide.jsonl").write_bytes(json.dumps(keys).encode() + b"\n" + ROW % 2)
    return folder / "wide.jsonl"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def large_picture(folder: Path) -> Path:
    """A PNG of 60,000 x 60,000 pixels in 4 MB."""
    squeezed = zlib.compressobj(9)
    body = b"".join(squeezed.compress(bytes(1 << 24)) for _ in range(216)) + squeezed.flush()
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    (folder / "large.png").write_bytes(data)
    return folder / "large.png"


def many_frames(folder: Path) -> Path:
    """A GIF of 20,000 frames."""
    from PIL import Image

    buffer = io.BytesIO()
    frames = [Image.new("P", (64, 64), number % 251) for number in range(20_000)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], optimize=False)
    (folder / "frames.gif").write_bytes(buffer.getvalue())
    return folder / "frames.gif"


BOMBS: dict[str, tuple[Make, Callable[[Path], str]]] = {
    "gzip of 4 GB of blanks": (zeros("gz", 4 << 30), rows),
    "bz2 of 4 GB of blanks": (zeros("bz2", 4 << 30), rows),
    "xz of 4 GB of blanks": (zeros("xz", 4 << 30), rows),
    "zstd of 4 GB of blanks": (zeros("zst", 4 << 30), rows),
    "a line of 1 GB": (long_line, rows),
    "10 million rows": (many_rows, rows),
    "10 million brackets": (deep, rows),
    "a million keys": (wide, rows),
    "picture of 3.6 gigapixels": (large_picture, picture),
    "GIF of 20,000 frames": (many_frames, picture),
}


def tried(look: Callable[[Path], str], path: Path) -> Iterator[str]:
    """Yield the columns of what becomes of a file in a process of its own."""
    reading, writing = os.pipe()
    begun, child = time.monotonic(), os.fork()
    if child == 0:
        try:
            said = look(path)
        except (VlmPrepError, Reject) as error:
            said = f"refused: {error.message.replace(str(path), path.name)}"
        except MemoryError as error:
            said = f"MemoryError: {error}"
        os.write(writing, said[:300].encode())
        os._exit(0)
    os.close(writing)
    _, status, used = os.wait4(child, 0)
    with os.fdopen(reading) as file:
        said = file.read()
    yield f"{time.monotonic() - begun:8.1f} s {used.ru_utime + used.ru_stime:8.1f} s"
    yield f"{used.ru_maxrss >> 10:>8,} MiB"
    yield said if not status else f"status {status}"


def main() -> None:
    """Make the bombs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="those whose names begin so")
    parser.add_argument("--folder", type=Path, default=Path("out/bombs"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    os.environ["VLM_PREP_CACHE"] = str(given.folder.absolute() / "cache")
    # a child's memory begins with that of this process
    print(f"(a process that did nothing yet: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB)")
    print(f"{'':<28}{'size':>14}  {'seconds, CPU':>20} {'memory':>13}")
    for name, (make, look) in BOMBS.items():
        if given.only and not name.startswith(given.only):
            continue
        path = make(given.folder)
        size = path.stat().st_size
        print(f"{name:<28}{size:>14,}  " + "  ".join(tried(look, path)), flush=True)
        path.unlink()
        shutil.rmtree(given.folder / "cache", ignore_errors=True)


if __name__ == "__main__":
    main()
