"""Write rows into tar shards that `webdataset` and `load_dataset("webdataset")` open; the second output of `pack`.

A row is the files of one key: `000000012.input_ids.npy`, `000000012.labels.npy`, ... and `000000012.json`. What both
libraries ask for decides the form:

- Fields end in .npy and .json, which both decode without pickle; keys have no dot, names fit USTAR's 100 characters.
- Every row has the same fields, or Hugging Face refuses the tar. Media files are therefore one field, `media.bin`,
  joined in order; `separate` gives each file a field of its own (`media.0.jpg`), and each tensor one
  (`media.1.waveform.npy`), for webdataset's decoders, and says in `media.json` what they are and when frames are shown.
- Empty matrices lose their type in Hugging Face's inference: (n, 3) grids are stored flat, `reshape(-1, 3)`.
- Nested JSON would be unified into structs across rows: the description of media is JSON text inside the JSON.

Times, owners and modes are fixed, so the bytes depend on the rows alone. A tar does not say that rows are missing:
like an Arrow shard it gets its final name only when whole, and the manifest holds its rows and checksum.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson

from vlm_prep.core.atomic_files import sync_file, sync_folder
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.writer import Row


class TarWriter:
    """Writes one tar of packs; used as `ShardWriter` is.

    Args:
        path: final path.
        separate: give each media file a field of its own.
    """

    def __init__(self, path: Path, *, separate: bool = False) -> None:
        self.path, self._separate = path, separate
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._rows = self._tokens = 0
        self._sink = open(self._temporary, "wb")  # noqa: SIM115 (closed by __exit__ and commit)
        self._tar = tarfile.open(fileobj=self._sink, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sink.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._sink.tell()

    def write(self, row: Row, *, size: int, tokens: int) -> None:
        """Add a pack; `size` is of no use here."""
        key = f"{row['pack_id']:09d}"
        for name, data in _members(row, self._separate):
            member = tarfile.TarInfo(f"{key}.{name}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        self._rows += 1
        self._tokens += tokens

    def commit(self) -> ShardInfo:
        """Finish the file, check it, give it its final name, and return what the manifest should say of it."""
        self._tar.close()
        self._sink.close()
        sync_file(self._temporary)
        counted = count_keys(self._temporary)
        if counted != self._rows:
            raise StoreError(f"{self.path.name}: wrote {self._rows} rows and read back {counted}", "check the disk")
        info = ShardInfo(
            name=self.path.name,
            rows=self._rows,
            tokens=self._tokens,
            bytes=self._temporary.stat().st_size,
            xxh3=digest_file(self._temporary),
            batches=(),
        )
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        return info


def count_keys(path: Path) -> int:
    """Return the rows of a tar by walking its headers."""
    with tarfile.open(path) as tar:
        return len({member.name.partition(".")[0] for member in tar})


def _members(row: Row, separate: bool) -> Iterator[tuple[str, bytes]]:
    """Yield (field, bytes) of a row, the same fields in the same order for every row of a store."""
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            yield f"{name}.npy", _npy(value.reshape(-1) if name.endswith("_thw") else value)
    media, files = _described(row["media"])
    if separate:
        for number, (name, content) in enumerate(files):
            if isinstance(content, np.ndarray):
                yield f"media.{number}.{name}.npy", _npy(content)
            else:
                yield f"media.{number}.{_extension(name, content)}", content
        yield "media.json", orjson.dumps(_for_decoders(media))
    else:
        yield "media.bin", b"".join(data.tobytes() if isinstance(data, np.ndarray) else data for _, data in files)
    about = {"pack_id": row["pack_id"], "sample_ids": list(row["sample_ids"]), "media": orjson.dumps(media).decode()}
    yield "json", orjson.dumps(about)


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _described(media: Any) -> tuple[list[dict[str, Any]], list[tuple[str, bytes | np.ndarray[Any, Any]]]]:
    """Return media without their bytes, each file and tensor with its place in media.bin, and (name, content)."""
    described, offset = list[dict[str, Any]](), 0
    files: list[tuple[str, bytes | np.ndarray[Any, Any]]] = []
    for item in media:
        places = []
        for file in item["files"]:
            data = b"" if file["bytes"] is None else bytes(file["bytes"])
            places.append({"uri": file["uri"], "digest": file["digest"], "offset": offset, "size": len(data)})
            files.append((file["uri"], data))
            offset += len(data)
        tensors = []
        for tensor in item["tensors"] or ():
            flat = np.frombuffer(tensor["data"], np.uint8)
            about = {name: _plain(tensor[name]) for name in ("name", "dtype", "shape", "coded")}
            tensors.append({**about, "offset": offset, "size": len(flat)})
            files.append((str(tensor["name"]), _shaped(flat, str(tensor["dtype"]), about["shape"])))
            offset += len(flat)
        about = {name: _plain(value) for name, value in item.items() if name not in ("files", "tensors", "same_as")}
        described.append({**about, "files": places, **({"tensors": tensors} if tensors else {})})
    return described, files


def _shaped(flat: np.ndarray[Any, Any], dtype: str, shape: list[int]) -> np.ndarray[Any, Any]:
    """Return a stored tensor as it lies (columns that repeat are left out); torch's own types as bytes."""
    if dtype not in np.sctypeDict:
        return flat
    return flat.view(dtype).reshape([*shape[:-2], -shape[-1]] if shape and shape[-1] < 0 else shape)


def _for_decoders(media: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what stands in `media.json`: of each media its fields, kind, sizes, and seconds of a video's frames."""
    found, number = [], 0
    for item in media:
        count = len(item["files"]) + len(item.get("tensors", ()))
        about = {name: value for name, value in item.items() if name not in ("files", "tensors") and value is not None}
        frames, fps = item.get("frame_indices"), item.get("fps")
        if frames is not None and fps and "times" not in about:
            about["times"] = [frame / fps for frame in frames]
        found.append({"fields": list(range(number, number + count)), **about})
        number += count
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


_HEADS = (
    *((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"fLaC", "flac")),
    *((b"OggS", "ogg"), (b"ID3", "mp3"), (b"\x1aE\xdf\xa3", "webm")),
)


def _extension(uri: str, data: bytes) -> str:
    """Return a media file's own extension, lower case, as webdataset's decoders expect it; told by the first bytes
    where it has none, as a picture out of a table's cell. A file whose bytes are not stored is no picture to them."""
    if not data:
        return "bin"
    suffix = PurePosixPath(uri.rpartition("::")[2]).suffix.lower().lstrip(".")
    if suffix.isascii() and suffix.isalnum():
        return suffix
    if data[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(data[8:12], "wav")
    known = (name for head, name in _HEADS if data.startswith(head))
    return next(known, "mp4" if data[4:8] == b"ftyp" else "bin")
