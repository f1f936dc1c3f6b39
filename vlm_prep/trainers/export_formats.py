"""The forms that other trainers read; each writes all rows of a store into an empty folder and returns how many.

What is stored is what is written: ids and labels are the store's, and a media with each row that has it. Where a
trainer's own loader would make something else of a file, what it should make is written: a picture that its EXIF data
turns is stored upright, as PNG, since LLaMA-Factory reads pictures as they lie.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.core.errors import InputError
from vlm_prep.media.image import load_rgb
from vlm_prep.media.image_formats import open_picture
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_texts import conversation_of
from vlm_prep.shards.schema import LOSS_WEIGHTS
from vlm_prep.shards.tar import TarWriter
from vlm_prep.shards.writer import ShardWriter
from vlm_prep.stream.collate_base import IGNORE

_ORIENTATION = 0x0112
_ROWS = 64
"""In a record batch of pictures, of about 16 MiB."""
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_EXAMPLE = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("attention_mask", pa.list_(pa.int8())),
        ("labels", pa.list_(pa.int32())),
        ("images", pa.list_(_FILE)),
        ("videos", pa.list_(pa.string())),
        ("audios", pa.list_(pa.string())),
    ]
)
_CHAT = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("images", pa.list_(_FILE)),
        ("lengths", pa.list_(pa.int64())),
    ]
)


def parquet(store: Store, folder: Path) -> int:
    """Write `train-00000-of-00002.parquet` ..., a file for each shard, with the store's own columns."""
    for number, batches in enumerate(_whole_rows(store, folder)):
        name = f"train-{number:05d}-of-{len(store.shards):05d}.parquet"
        kind = {"compression": "zstd", "write_statistics": False}
        with pq.ParquetWriter(folder / name, batches.schema, **kind) as file:
            for batch in batches:
                file.write_batch(batch)
    return len(store)


def lance(store: Store, folder: Path) -> int:
    """Write a Lance dataset, with the store's own columns.

    Raises:
        InputError: Lance is not installed.
    """
    try:
        write = importlib.import_module("lance").write_dataset
    except ModuleNotFoundError as error:
        raise InputError("to=lance: Lance is not installed", "pip install pylance, or export to parquet") from error
    for number, batches in enumerate(_whole_rows(store, folder)):
        write(batches, str(folder), mode="append" if number else "create")
    return len(store)


def _whole_rows(store: Store, folder: Path) -> Iterator[pa.RecordBatchStreamReader]:
    """Yield the batches of each shard, media with each row that has them; by way of a file that is removed."""
    stream = folder / ".rows.arrow"
    for shard in store.shards:
        with ShardWriter(stream, shard.schema) as writer:
            for row in (shard.row(index) for index in range(len(shard))):
                writer.write(row, size=8 * len(row["input_ids"]), tokens=len(row["input_ids"]))
            writer.commit()
        with pa.memory_map(str(stream)) as source, pa.ipc.open_stream(source) as batches:
            yield batches
        stream.unlink()


def llamafactory(store: Store, folder: Path) -> int:
    """Write what `tokenized_path` names: ids, labels and pictures as LLaMA-Factory saves them itself."""
    (folder / "train").mkdir()
    (folder / "dataset_dict.json").write_bytes(orjson.dumps({"splits": ["train"]}))
    return _dataset(folder / "train", _EXAMPLE, _examples(store), store.manifest.fingerprint)


def _examples(store: Store) -> Iterator[dict[str, Any]]:
    for row in store.rows():
        ids = row["input_ids"]
        _refuse_weights(row, "LLaMA-Factory")
        yield {
            "input_ids": ids,
            "attention_mask": np.ones(len(ids), np.int8),
            "labels": row["labels"],
            "images": _pictures(row, "LLaMA-Factory"),
            "videos": None,
            "audios": None,
        }


def ms_swift(store: Store, folder: Path) -> int:
    """Write what `--cached_dataset` names: chats, pictures and lengths; ms-swift renders and tokenizes them again.

    Raises:
        InputError: rows were cut inside a turn, and ms-swift would train all of it; or a row has what has no place.
    """
    if cut := store.manifest.totals.get("cut_inside"):
        raise InputError(
            f"{cut:,} rows were cut inside a turn, of which this form of chats holds the whole text",
            "tokenize with `overlong=truncate`, or train over the store (docs/trainers.md)",
        )
    return _dataset(folder, _CHAT, _chats(store), store.manifest.fingerprint)


def _chats(store: Store) -> Iterator[dict[str, Any]]:
    for row in store.rows():
        chat = conversation_of(row)
        _refuse_weights(row, "ms-swift")
        if without_place := _beside_text(chat):
            raise InputError(
                f"{row['sample_id']} has {without_place}, which this form of chats has no place for",
                "leave it out, or train it over the store (docs/trainers.md)",
            )
        messages = [{"role": each["role"], "content": _plain(each["content"])} for each in chat["messages"]]
        yield {"messages": messages, "images": _pictures(row, "ms-swift"), "lengths": [len(row["input_ids"])]}


def _beside_text(chat: Mapping[str, Any]) -> str | None:
    """What ms-swift would not render or would train, of a chat of which it gets roles and texts alone."""
    messages = chat["messages"]
    parts = [part for each in messages if not isinstance(each["content"], str) for part in each["content"]]
    if chat.get("tools") or any(each.get("tool_calls") for each in messages):
        return "tools"
    if any(each.get("reasoning_content") for each in messages):
        return "reasoning_content"
    if any(each.get("train") is False and each["role"] == "assistant" for each in messages):
        return "an answer that is not trained"
    if any(part.get("train") is False for part in parts):
        return "a part that is not trained"
    return None


def _refuse_weights(row: Mapping[str, Any], trainer: str) -> None:
    """Refuse a row whose trained tokens do not weigh 1 each, for a form that holds labels alone."""
    weights = row.get(LOSS_WEIGHTS)
    if weights is not None and np.any(weights[row["labels"] != IGNORE] != 1):
        raise InputError(
            f"{_name(row)} has weights of tokens, which {trainer} has no place for",
            "tokenize data without weights, or train it over the store (docs/trainers.md)",
        )


def _plain(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] if "text" in part else f"<{part['type']}>" for part in content)


def megatron_indexed(store: Store, folder: Path) -> int:
    """Write `tokens.bin/.idx` and `labels.bin/.idx`, int32, a document for each row, as Megatron's IndexedDataset."""
    for name, column in (("tokens", "input_ids"), ("labels", "labels")):
        lengths: list[int] = []
        with open(folder / f"{name}.bin", "wb") as file:
            for row in store.rows():
                _refuse_weights(row, "an indexed dataset")
                if row["media"]:
                    raise InputError(
                        f"{_name(row)} has media; an indexed dataset holds tokens alone", "train it by another way"
                    )
                file.write(np.ascontiguousarray(row[column], np.int32).tobytes())
                lengths.append(len(row[column]))
        (folder / f"{name}.idx").write_bytes(_index(np.array(lengths, np.int64)))
    return len(store)


def energon(store: Store, folder: Path) -> int:
    """Write a WebDataset of Megatron-Energon: a tar for each shard, its index by Energon itself, all of it `train`.

    A row is a `CrudeSample`: its arrays as .npy, its media as their own files, `json` and `media.json` that say what
    they are, see `shards.tar`.

    Raises:
        InputError: Energon is not installed.
    """
    try:
        prepare = importlib.import_module("megatron.energon.flavors.webdataset.prepare").WebdatasetPreparator
    except ModuleNotFoundError as error:
        raise InputError("to=energon: Megatron-Energon is not installed", "pip install megatron-energon") from error
    names, rows = [], 0
    for number, shard in enumerate(store.shards):
        names.append(f"shard_{number:05d}.tar")
        with TarWriter(folder / names[-1], separate=True) as tar:
            for row in (shard.row(index) for index in range(len(shard))):
                named = {"pack_id": rows, "sample_ids": [row["sample_id"]]} if "sample_id" in row else {}
                tar.write({**row, **named}, size=0, tokens=len(row["input_ids"]))
                rows += 1
            tar.commit()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where it writes, which is renamed afterwards
        prepare.prepare_dataset(folder, names, split_parts_ratio=[("train", 1.0)], shuffle_seed=None, workers=1)
    (folder / ".nv-meta" / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
    return rows


def _index(lengths: np.ndarray[Any, np.dtype[np.int64]]) -> bytes:
    """The index of megatron.core.datasets.indexed_dataset, version 1: int32 has the code 4."""
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)[:-1]]) * 4 if len(lengths) else lengths
    documents = np.arange(len(lengths) + 1, dtype=np.int64)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, len(lengths), len(documents))
    return head + lengths.astype(np.int32).tobytes() + starts.tobytes() + documents.tobytes()


def _dataset(folder: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]], fingerprint: str) -> int:
    """Write rows as `datasets.load_from_disk` reads them."""
    name, count, held = "data-00000-of-00001.arrow", 0, list[dict[str, Any]]()
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for row in rows:
            held.append(row)
            if len(held) == _ROWS:
                stream.write_batch(_batch(held, schema))
                count, held = count + len(held), []
        if held:
            stream.write_batch(_batch(held, schema))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": fingerprint.removeprefix("xxh3:")[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    (folder / "state.json").write_bytes(orjson.dumps(state))
    (folder / "dataset_info.json").write_bytes(b"{}")
    return count + len(held)


def _batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema
    )


def _pictures(row: Mapping[str, Any], trainer: str) -> list[dict[str, Any]]:
    """A row's pictures, upright, with the name that they had."""
    found = []
    for media in row["media"]:
        if media["kind"] != "image":
            raise InputError(
                f"{row['sample_id']} has {media['kind']}: of media {trainer} would choose frames or rates itself, and "
                "ids would not fit them",
                "leave such rows out, or train them over the store (docs/trainers.md)",
            )
        (file,) = media["files"]
        if file["bytes"] is None:
            raise InputError(
                f"{row['sample_id']}: the store holds no bytes of {file['uri']}", "tokenize with `media=encoded`"
            )
        found.append({"bytes": _upright(bytes(file["bytes"]), file["uri"]), "path": None})
    return found


def _upright(data: bytes, uri: str) -> bytes:
    with open_picture(data, uri) as picture:
        turned = picture.getexif().get(_ORIENTATION, 1) not in (0, 1)
    if not turned:
        return data
    made = io.BytesIO()
    load_rgb(data, uri).save(made, "PNG")
    return made.getvalue()


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("sample_id", row.get("sample_ids")))
