"""Targets of `fuzz.py`: what users and crawlers wrote: rows, tables, archives, settings, chat templates."""

from __future__ import annotations

import bz2
import contextlib
import copy
import functools
import gzip
import io
import itertools
import lzma
import sqlite3
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_media import pictures
from fuzz_target import target

from vlm_prep.builtin import builtin_data
from vlm_prep.core.bounds import bounded
from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.core.remote import is_remote
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.mapping.compiled import canonical, compiled
from vlm_prep.ingest.source import open_samples
from vlm_prep.media import files as media_files
from vlm_prep.media.places import check_roots, located
from vlm_prep.media.probe import probe
from vlm_prep.pack.mix_file import read_mix
from vlm_prep.processors.chat_template import template_text
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.tokenize.tokenize_job import TokenizeJob

_LINES = ("parts_talk", "photo_talk")
_PROCESSOR = "builtin:qwen2.5-vl-mini"
_NUMBERS = itertools.count()
"""For names that are new each time: what a file holds is remembered by its name, size and time."""


def _rows(data: bytes, folder: Path, name: str) -> None:
    path = folder / f"{next(_NUMBERS)}-{name}"
    path.write_bytes(data)
    samples = open_samples(path)
    list(samples.read(0, min(len(samples), 50)))


@target("lines", lambda: [(builtin_data().parent / f"{name}.jsonl").read_bytes()[:4096] for name in _LINES])
def lines(data: bytes, folder: Path) -> None:
    """Read rows of JSON lines."""
    _rows(data, folder, "rows.jsonl")


@target("array", lambda: [(builtin_data().parent / "tool_talk.json").read_bytes()])
def array(data: bytes, folder: Path) -> None:
    """Read rows of a JSON array."""
    _rows(data, folder, "rows.json")


@target("meta", lambda: [builtin_data().read_bytes()])
def meta(data: bytes, folder: Path) -> None:
    """Read a meta JSON."""
    _rows(data, folder, "meta.json")


@target("csv", lambda: [b'image,question,answer\na.png,"What, now?",Here\nb.png,Why?,"""So"""\n'])
def csv(data: bytes, folder: Path) -> None:
    """Read rows of a CSV."""
    _rows(data, folder, "rows.csv")


def _compressed() -> list[bytes]:
    text = (builtin_data().parent / "photo_talk.jsonl").read_bytes()[:2048]
    zstd = pa.compress(text, "zstd", asbytes=True)
    return [gzip.compress(text, mtime=0), bz2.compress(text), lzma.compress(text), zstd, text.decode().encode("utf-16")]


@target("packed_text", _compressed)
def packed_text(data: bytes, folder: Path) -> None:
    """Read rows of compressed or otherwise encoded lines."""
    _rows(data, folder, "rows.jsonl.gz")


# ---- tables ----


def _table() -> pa.Table:
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Noise."}]
    image = {"bytes": pictures()[0], "path": "a.png"}
    return pa.Table.from_pylist([{"messages": turns, "image": image, "n": number} for number in range(20)])


def _parquet() -> list[bytes]:
    found = []
    for options in ({"compression": "zstd"}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 5}):
        buffer = io.BytesIO()
        pq.write_table(_table(), buffer, **options)
        found.append(buffer.getvalue())
    return found


@target("parquet", _parquet)
def parquet(data: bytes, folder: Path) -> None:
    """Read rows of a Parquet file, and a media in it."""
    _rows(data, folder, "rows.parquet")
    _cell(data, folder, "0/image")


def _arrow() -> list[bytes]:
    found = []
    for writer in (pa.ipc.new_file, pa.ipc.new_stream):
        buffer = io.BytesIO()
        with writer(buffer, _table().schema) as out:
            out.write_table(_table(), max_chunksize=8)
        found.append(buffer.getvalue())
    return found


@target("arrow", _arrow)
def arrow(data: bytes, folder: Path) -> None:
    """Read rows of an Arrow file, and a media in it."""
    _rows(data, folder, "rows.arrow")
    _cell(data, folder, "0/image")


def _cell(data: bytes, folder: Path, key: str) -> None:
    path = folder / f"{next(_NUMBERS)}-cell"
    path.write_bytes(data)
    media_files.read_bytes(f"{path}::{key}")


@functools.cache
def _lmdb() -> tuple[bytes, ...]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with lmdb.open(f"{folder}/a.lmdb", subdir=False, map_size=1 << 20) as made, made.begin(write=True) as writing:
            for number in range(40):
                writing.put(f"key{number}".encode(), bytes([number]) * (100 if number % 4 else 9000))
        return ((Path(folder) / "a.lmdb").read_bytes(),)


@target("lmdb", _lmdb)
def database(data: bytes, folder: Path) -> None:
    """Read media of an LMDB."""
    path = folder / f"{next(_NUMBERS)}.lmdb"
    path.write_bytes(data)
    for number in (0, 1, 20, 39):
        with contextlib.suppress(Reject):
            media_files.read_bytes(f"{path}::key{number}")


def _tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for number in range(3):
                for end, data in (("png", pictures()[0]), ("json", b'{"text": "A cat."}'), ("txt", b"A cat.")):
                    member = tarfile.TarInfo(f"{'long/' * 25 if number == 2 else ''}{number:04}.{end}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        found.append(buffer.getvalue())
    return found


@target("rows_tar", _tars)
def rows_tar(data: bytes, folder: Path) -> None:
    """Read the rows of a WebDataset tar, and a media in it."""
    _rows(data, folder, "rows.tar")
    path = folder / f"{next(_NUMBERS)}.tar"
    path.write_bytes(data)
    media_files.read_bytes(f"{path}::0000.png")


@functools.cache
def _databases() -> tuple[bytes, ...]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with sqlite3.connect(f"{folder}/a.db") as made:
            made.execute("CREATE TABLE rows (question TEXT, answer TEXT, image BLOB)")
            made.executemany("INSERT INTO rows VALUES (?, ?, ?)", [("Q?", "A.", pictures()[0])] * 20)
        made.close()
        return ((Path(folder) / "a.db").read_bytes(),)


@target("sqlite", _databases)
def sqlite(data: bytes, folder: Path) -> None:
    """Read the rows of an SQLite database."""
    _rows(data, folder, "rows.db")


def _zips() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as made:
            for number in range(3):
                made.writestr(f"a/{number}é.png", pictures()[0])
        found.append(buffer.getvalue())
    return found


@target("zip", _zips)
def archive(data: bytes, folder: Path) -> None:
    """Read media of a zip."""
    path = folder / f"{next(_NUMBERS)}.zip"
    path.write_bytes(data)
    for number in range(3):
        with contextlib.suppress(Reject):
            media_files.read_bytes(f"{path}::a/{number}é.png")


_ADDRESSES = (
    *(b"rows.jsonl::0+39/image", b"rows.jsonl::5120+377/messages/0/content/1/image_url/url", b"a.tar::x/1.png"),
    *(b"a.zip::../x", b"http://[::1]:80/a.png?b=c", b"s3://bucket/a%20b.png", b"file:///etc/passwd", b"../../x"),
    *(b"data:image/png;base64,AAAA", b"rows.parquet::17/images/0", b"db.lmdb::key", b"hf://datasets/a/b", b"a\\b.png"),
)


@target("address", lambda: _ADDRESSES)
def address(data: bytes, folder: Path) -> None:
    """Look for a media at an address, which no network is asked about."""
    (folder / "rows.jsonl").write_bytes(b'{"image": "data:image/png;base64,AAAA"}\n')
    text = data.decode("utf-8", "surrogateescape")
    if is_remote(text) or not text.isprintable():
        return  # a message shows what does not print when it is printed
    uri = text if text.startswith("/") else f"{folder}/{text}"
    media = located(Media(kind="image", uris=(uri,)), check_roots([str(folder)]))
    probe(media, decode=True)


# ---- settings ----

_JOB: dict[str, Any] = {
    "out": "made",
    "ingest": {"source": "rows.jsonl", "max_reject_rate": 1.0},
    "tokenize": {
        "processor": _PROCESSOR,
        "max_length": 512,
        "media": "encoded",
        "fps": 2.0,
        "processor_args": {"a": 1},
    },
    "pack": {"pack_length": 1024, "world_size": 2, "layout": "index"},
}


@target("run_file", lambda: [orjson.dumps(_JOB), b"out: made\ntokenize:\n  source: a.jsonl\n  max_length: 4096\n"])
def run_file(data: bytes, folder: Path) -> None:
    """Read a run file as `vlm-prep run` and each stage do."""
    from vlm_prep.cli import flags, main
    from vlm_prep.cli.run_file import STAGES, read_run_file

    assert main.COMMANDS  # a command's settings are known once it is made
    path = folder / "run.yaml"
    path.write_bytes(data)
    found = read_run_file(path)
    for stage in STAGES:
        flags.of_stage(stage, found)


_MIX = b"stores:\n  - store: a\n    weight: 2\n    where: tokens < 4096\n  - {store: b, ratio: 0.5}\nrows: 9\ntake: x\n"
_ALIASES = b"a: &a {x: 1}\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: {<<: *a, y: [*c, *c]}\nstores: *c\nturns: *b\n"


@target("mix_file", lambda: [_MIX, _ALIASES])
def mix_file(data: bytes, folder: Path) -> None:
    """Read a mix file."""
    (folder / "mix.yaml").write_bytes(data)
    read_mix(folder / "mix.yaml")


_MAPPING = b'{images: photo, strip: true, turns: [{user: [image, "What is {it}?"]}, {assistant: "{caption}"}]}'


@target("mapping", lambda: [_MAPPING, _ALIASES])
def mapping(data: bytes, folder: Path) -> None:
    """Read a mapping, and a row with it."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return  # the setting is a text
    row = {"photo": "a.png", "it": ["x", {"y": 1}], "caption": "A."}
    compiled(canonical(text)).apply(row, "a/0")


@functools.cache
def _loaded() -> LoadedProcessor:
    return load_processor(_PROCESSOR)


_GROWING = b"{% for m in messages %}{{ m.content * 1000000000 }}{% endfor %}"


def _templates() -> list[bytes]:
    own = _loaded().chat_template.encode()
    plain = (
        b"{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{{ c['text'] }}{% endfor %}"
        b"<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return [own, own, plain, plain, _GROWING, b'{"chat_template": "{{ messages }}"}']


@target("template", _templates)
def template(data: bytes, folder: Path) -> None:
    """Encode rows with a chat template."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return  # the setting is a text
    path = folder / "rows.jsonl"
    path.write_bytes((builtin_data().parent / "parts_talk.jsonl").read_bytes())
    hf = copy.copy(_loaded().hf)
    hf.chat_template = template_text(text)
    job = TokenizeJob(open_samples(path), _PROCESSOR, TokenizeConfig())
    job.setup(replace(_loaded(), hf=hf))  # with its vocabulary, which takes long to load
    with bounded("the template", 5.0):
        list(job.results(0, 2))
