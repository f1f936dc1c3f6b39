"""Targets of `fuzz.py`: what users and crawlers wrote: rows, tables, media, run files, chat templates."""

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import lmdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from fuzz_target import target
from PIL import Image

from vlm_prep.builtin import builtin_data
from vlm_prep.core.bounds import bounded
from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.media import files as media_files
from vlm_prep.media.audio import read_waveform
from vlm_prep.media.probe import probe
from vlm_prep.media.video import read_frames
from vlm_prep.processors.chat_template import template_text
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.tokenize.tokenize_job import TokenizeJob

_LINES = ("parts_talk", "photo_talk")
_PROCESSOR = "builtin:qwen2.5-vl-mini"
_NUMBERS = itertools.count()
"""For names that are new each time: what a file holds is remembered by its name, size and time."""
_WAVE = (np.sin(np.arange(800) / 8) / 2).astype(np.float32)


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
    image = {"bytes": _pictures()[0], "path": "a.png"}
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
                for end, data in (("png", _pictures()[0]), ("json", b'{"text": "A cat."}'), ("txt", b"A cat.")):
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
            made.executemany("INSERT INTO rows VALUES (?, ?, ?)", [("Q?", "A.", _pictures()[0])] * 20)
        made.close()
        return ((Path(folder) / "a.db").read_bytes(),)


@target("sqlite", _databases)
def sqlite(data: bytes, folder: Path) -> None:
    """Read the rows of an SQLite database."""
    _rows(data, folder, "rows.db")


# ---- media ----


def _twice(look: Callable[[], object]) -> None:
    """A reject is part of a store: its words must be the same each time."""
    said = []
    for _ in range(2):
        try:
            look()
            said.append("")
        except Reject as reject:
            said.append(f"{reject.reason}: {reject.message}")
    if said[0] != said[1]:
        raise AssertionError(f"two different rejects: {said}")


def _pictures() -> list[bytes]:
    found = []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@target("picture", _pictures)
def picture(data: bytes, folder: Path) -> None:
    """Probe and decode a picture."""
    path = folder / "picture"
    path.write_bytes(data)
    for decode in (False, True):
        _twice(lambda decode=decode: probe(Media(kind="image", uris=(str(path),)), decode=decode))  # type: ignore[misc]


def _streams(kinds: Sequence[tuple[str, str, str]], make: Callable[[Any, str, str], None]) -> Iterator[bytes]:
    """Yield a file for each (container, codec, pixel or sample format) that this FFmpeg writes."""
    for container, codec, form in kinds:
        buffer = io.BytesIO()
        try:
            with av.open(buffer, "w", format=container) as out:
                make(out, codec, form)
        except (av.FFmpegError, ValueError):
            continue
        yield buffer.getvalue()


def _write_frames(out: Any, codec: str, form: str) -> None:
    stream = out.add_stream(codec, rate=8)
    stream.width = stream.height = 32
    stream.pix_fmt = form
    for number in range(8):
        picture = np.full((32, 32, 3), number * 30, np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    out.mux(stream.encode(None))


def _write_sound(out: Any, codec: str, form: str) -> None:
    stream = out.add_stream(codec, rate=48000, layout="mono", format=form)
    for number in range(4):
        wave = _WAVE.reshape(1, -1) if form.endswith("p") or form.startswith("flt") else None
        samples = wave if wave is not None else (_WAVE.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=form, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * len(_WAVE), Fraction(1, 48000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _sounds() -> list[bytes]:
    found = []
    forms = (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None))
    more = (("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"), ("WAV", "IMA_ADPCM"))
    for kind, subtype in (*forms, *more):
        buffer = io.BytesIO()
        soundfile.write(buffer, _WAVE, 8000, subtype, format=kind)
        found.append(buffer.getvalue())
    kinds = (("ipod", "aac", "fltp"), ("adts", "aac", "fltp"), ("matroska", "libopus", "flt"), ("asf", "wmav2", "fltp"))
    return [*found, *_streams(kinds, _write_sound)]


@target("sound", _sounds)
def sound(data: bytes, folder: Path) -> None:
    """Probe and decode a file of sound."""
    path = folder / "sound"
    path.write_bytes(data)
    media = Media(kind="audio", uris=(str(path),))
    for decode in (False, True):
        _twice(lambda decode=decode: probe(media, decode=decode))  # type: ignore[misc]
    wave = read_waveform(data, 16000, str(path))
    if not np.isfinite(wave).all():
        raise AssertionError("samples that are not finite")


def _animation(kind: Literal["GIF", "WEBP", "PNG"]) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), (number * 60, 0, 0)) for number in range(4)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def _clips() -> list[bytes]:
    kinds = (
        *(("mp4", "libx264", "yuv420p"), ("mp4", "mpeg4", "yuv420p"), ("webm", "libvpx", "yuv420p")),
        *(("matroska", "mpeg4", "yuv420p"), ("avi", "mpeg4", "yuv420p"), ("mpegts", "mpeg2video", "yuv420p")),
        *(("mov", "mjpeg", "yuvj420p"), ("webm", "libvpx-vp9", "yuv420p"), ("flv", "flv1", "yuv420p")),
    )
    return [*_streams(kinds, _write_frames), *(_animation(kind) for kind in ("GIF", "WEBP", "PNG"))]


@target("clip", _clips)
def clip(data: bytes, folder: Path) -> None:
    """Probe and decode a video."""
    path = folder / "clip"
    path.write_bytes(data)
    media = Media(kind="video", uris=(str(path),))
    _twice(lambda: probe(media, decode=True, track=True))
    header = probe(media)[0].header
    if header is not None and header.total_frames:
        last = header.total_frames - 1
        _twice(lambda: read_frames(str(path), sorted({0, last // 2, last}), str(path), header.decoder))


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
