"""Lance tables, `rows.lance/` → Parquet in the cache, the rows of the newest version in their order.

Read by `pylance` (`pip install 'vlm-prep[lance]'`), blobs as their bytes.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.derived.table_copy import table_copy

_ROWS = 256


def is_lance(path: Path) -> bool:
    """Whether a folder is a Lance table."""
    return path.is_dir() and any((path / "_versions").glob("*.manifest"))


def as_parquet(folder: Path) -> Path:
    """Return a Parquet file with the rows of a table.

    Raises:
        InputError: pylance is not installed, or cannot read it.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return table_copy([str(folder), stats], folder.stem, lambda target: _write(folder, target))


def _write(folder: Path, target: Path) -> None:
    try:
        import lance
    except ImportError as error:
        raise InputError(
            f"{folder} is a Lance table, and pylance is not installed", "pip install 'vlm-prep[lance]'"
        ) from error
    try:
        scanner = lance.dataset(str(folder)).scanner(
            batch_size=_ROWS, scan_in_order=True, strict_batch_size=True, blob_handling="all_binary"
        )
        reader = scanner.to_reader()
        with pq.ParquetWriter(target, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:  # what pylance raises
        raise InputError(f"{folder}: cannot be read as a Lance table: {error}", "Write it again.") from error
