"""What changed inputs found, each kind with a small deterministic sample of its own."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import flags, main
from vlm_prep.cli.run_file import read_run_file
from vlm_prep.core.errors import InputError, ProcessorError, Reject, StoreError
from vlm_prep.core.records import Media, Rejected
from vlm_prep.core.settings import IngestConfig, ProcessorConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.animation import probe_animation
from vlm_prep.media.audio import probe_audio, read_waveform
from vlm_prep.media.files import read_bytes
from vlm_prep.media.places import check_roots
from vlm_prep.media.probe import probe
from vlm_prep.processors.load import load_processor
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import sealed
from vlm_prep.stream import ShardDataset, State
from vlm_prep.tokenize.chat.template import ChatTemplate

assert main.COMMANDS  # a command's settings are known once it is made
TURNS = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Noise."}]
TABLE = pa.Table.from_pylist(
    [{"messages": TURNS, "image": {"bytes": b"\x89PNG" * 30, "path": "a.png"}, "n": number} for number in range(20)]
)


def written(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "parquet":
        pq.write_table(TABLE, buffer, row_group_size=8)
    else:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with make(buffer, TABLE.schema) as out:
            out.write_table(TABLE, max_chunksize=8)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_a_damaged_table_gives_rows_rejects_or_a_message_and_ends_no_process(kind: str, tmp_path: Path) -> None:
    """Before its batches were validated, 6 % of changed Arrow files ended in a SystemError, 1 % by a signal."""
    whole, child = written(kind), os.fork()
    if child == 0:
        chance, refused = random.Random(kind), 0
        try:
            for number in range(250):
                data = bytearray(whole)
                for _ in range(chance.choice((1, 2, 8))):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                path = tmp_path / f"{number}.{'parquet' if kind == 'parquet' else 'arrow'}"
                path.write_bytes(data)
                try:
                    samples = open_samples(path)
                    list(samples.read(0, min(len(samples), 40)))
                    read_bytes(f"{path}::0/image")
                except (InputError, Reject):
                    refused += 1
            os._exit(0 if refused > 20 else 2)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_row_groups_that_have_not_as_many_rows_as_their_file_are_refused(tmp_path: Path) -> None:
    path, data, said = tmp_path / "a.parquet", bytearray(written("parquet")), set()
    for place in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data) - 8):
        data[place] ^= 1  # of a number its sign
        with contextlib.suppress(pa.ArrowException, OSError, SystemError, UnicodeDecodeError):
            metadata = pq.read_metadata(pa.BufferReader(bytes(data)))
            counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            if sum(counts) != metadata.num_rows:
                path.write_bytes(data)
                with pytest.raises(InputError, match=r"\d rows, and its row groups have"):
                    open_samples(path)
                said.add(min(counts) < 0)
        data[place] ^= 1
    assert said == {True, False}


@pytest.mark.parametrize("name", ["seed", "epoch", "consumed", "fingerprint"])
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "\x1b", 2**63, {"": {}}, []])
def test_a_state_that_no_dataset_saved_is_refused(name: str, value: Any) -> None:
    state = {**State(fingerprint="f", seed=0, epoch=0, consumed=0).to_json(), name: value}
    if name == "fingerprint" and isinstance(value, str):
        return  # any text may be one; another store's is refused by `resume`
    with pytest.raises(StoreError, match=f"not a state of vlm_prep.stream: {name}"):
        State.from_json(state)


@pytest.mark.parametrize(
    "text", ["1: a", "ingest: {2: a}", "tokenize: {null: 1}", "pack: {[1, 2]: 3}", "? {a: 1}\n: 2"]
)
def test_a_run_file_whose_names_are_no_texts_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"out: made\n{text}\n")
    with pytest.raises(InputError):
        flags.of_stage("ingest", read_run_file(tmp_path / "run.yaml"))


@pytest.mark.parametrize("text", ["a: \x00", "a: b\x07\n", "\x1b: 1", "- - -: \x7f", "a: !!python/name:os.system x"])
def test_a_run_file_with_control_characters_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_run_file(tmp_path / "run.yaml")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    ["{% for m in messages %}", "{{ m[ }}", "{% nonsense %}", "{# a", "{{ 'a", "{% if " + "(" * 3000 + " %}"],
)
def test_a_template_that_is_no_jinja_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ProcessorError, match="is no Jinja") as caught:
        ChatTemplate(load_processor("builtin:qwen2.5-vl-mini", ProcessorConfig(chat_template=text)))
    assert "\n" not in caught.value.message


def refusal(kind: str, path: Path) -> str:
    with pytest.raises(Reject) as caught:
        probe(Media(kind=kind, uris=(str(path),)), decode=True)  # type: ignore[arg-type]
    return f"{caught.value.reason}: {caught.value.message}"


@pytest.mark.parametrize("rate", [1, 99, 768_001, 570_433_344, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_a_reject_before_anything_is_resampled(rate: int, tmp_path: Path) -> None:
    """An AU file of 103 bytes that states 570 MHz kept a worker until its time limit."""
    (tmp_path / "a.au").write_bytes(struct.pack(">4sIIIII", b".snd", 24, 400, 3, rate, 1) + bytes(400))
    assert f"its header states {rate} samples a second" in refusal("audio", tmp_path / "a.au")
    with pytest.raises(Reject, match="samples a second"):
        read_waveform((tmp_path / "a.au").read_bytes(), 16_000, "a.au")


def test_a_damaged_file_of_sound_prints_no_traceback_of_a_seek(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    buffer, chance = io.BytesIO(), random.Random(0)
    soundfile.write(buffer, [0.1] * 4000, 8000, format="MP3")
    for _ in range(150):
        data = bytearray(buffer.getvalue())
        for _ in range(8):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        with contextlib.suppress(Reject):
            probe_audio(bytes(data[chance.randrange(40) :]), "a.mp3", decode=True)
    assert "Traceback" not in capfd.readouterr().err


def test_an_animation_whose_frames_grow_or_are_too_large_is_a_reject(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), (number * 60, 0, 0)) for number in range(4)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    data = buffer.getvalue()
    second = data.index(b"\x2c\0\0\0\0", data.index(b"\x2c\0\0\0\0") + 1)
    taller = data[: second + 7] + struct.pack("<H", 17) + data[second + 9 :]
    (tmp_path / "a.gif").write_bytes(taller)
    assert refusal("video", tmp_path / "a.gif").endswith("its frames change their size")
    with pytest.raises(Reject, match="more than 255 pixels"):
        probe_animation(data, "a.gif", max_pixels=255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_of_too_many_frames_is_refused_before_one_is_decoded(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (number % 2 * 60, 0, 0)) for number in range(17)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100)
    assert probe_animation(buffer.getvalue(), "a", max_pixels=17 * 16).total_frames == 17
    with pytest.raises(Reject, match="17 frames of 16x16 are more than 16 x 271 pixels"):
        probe_animation(buffer.getvalue(), "a", max_pixels=17 * 16 - 1)


@pytest.mark.parametrize(
    ("stage", "way", "words"),
    [
        ("pack", ("config", "world_size"), "config.world_size is missing"),
        ("pack", ("splits", "rank_00000"), " packs for rank 0 of 2"),
        ("tokenize", ("processor", "parts", "image", "outputs"), "processor.parts.image has no outputs"),
    ],
)
def test_a_manifest_without_what_readers_need_is_refused(
    stage: str, way: tuple[str, ...], words: str, tokenized: Path, packed: Path, tmp_path: Path
) -> None:
    source = packed if stage == "pack" else tokenized
    table = orjson.loads((source / "manifest.json").read_bytes())
    table.pop("checksum")
    inner = table
    for key in way[:-1]:
        inner = inner[key]
    if way[0] == "splits":
        del table["splits"]["rank_00000"]
    else:
        del inner[way[-1]]
    store = Path(shutil.copytree(source, tmp_path / "store"))
    (store / "manifest.json").write_bytes(sealed(table))
    with pytest.raises(StoreError) as caught:
        ShardDataset(store)
    assert words in caught.value.message


def test_a_path_with_a_nul_in_a_meta_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"file_name": "rows\0.jsonl"}}))
    with pytest.raises(InputError) as caught:
        open_samples(tmp_path / "meta.json")
    assert "\n" not in caught.value.message


def test_rejects_hold_the_same_words_whatever_a_decoder_says_of_damaged_files(
    tmp_path: Path, options: Callable[..., RunOptions]
) -> None:
    """Damaged pictures, sounds and clips, in two processes each: clocks, addresses and heap bytes would differ."""
    chance, rows = random.Random(1), []
    data = builtin_data().parent
    buffer = io.BytesIO()
    soundfile.write(buffer, [0.1] * 4000, 8000, format="MP3")
    seeds = {"image": (data / "photos" / "coffee.jpg").read_bytes(), "audio": buffer.getvalue()}
    seeds["video"] = next((data / "clips").iterdir()).read_bytes()
    for number in range(60):
        kind = ("image", "audio", "video")[number % 3]
        whole = bytearray(seeds[kind])
        for _ in range(20):
            whole[chance.randrange(min(len(whole), 3000))] ^= 1 << chance.randrange(8)
        (tmp_path / f"{number}.bin").write_bytes(whole[: chance.choice((len(whole), len(whole) // 2, 40))])
        turns = [{"role": "user", "content": f"<{kind}>?"}, {"role": "assistant", "content": "A."}]
        rows.append({"messages": turns, f"{kind}s": [f"{number}.bin"]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, workers in (("one", 0), ("two", 2)):
        run = options(tmp_path / name, workers=workers, max_reject_rate=1.0)
        ingest(open_samples(tmp_path / "rows.jsonl"), IngestConfig(check_media="decode"), run)
    assert len(read_rejects(tmp_path / "one")) > 30
    assert (tmp_path / "one" / "rejects.parquet").read_bytes() == (tmp_path / "two" / "rejects.parquet").read_bytes()


def test_a_name_in_a_tar_that_is_no_utf8_rejects_its_row_alone(tmp_path: Path) -> None:
    row = json.dumps({"messages": TURNS[1:] * 2}).replace("assistant", "user", 1).encode()
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("1.json", "2.json", "3\udcff.json", "3\udcff.png", "4.json"):
            member = tarfile.TarInfo(name)
            member.size = len(row)
            tar.addfile(member, io.BytesIO(row))
    samples = open_samples(tmp_path / "a.tar")
    found = [isinstance(each, Rejected) for each in samples.read(0, len(samples))]
    assert found == [False, False, True, False]


def test_a_database_with_names_that_are_no_utf8_is_one_message(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as made:
        made.execute("CREATE TABLE tableone (question TEXT, answer TEXT)")
    made.close()
    data = (tmp_path / "a.db").read_bytes().replace(b"tableone", b"table\xff\xfee")
    (tmp_path / "a.db").write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_samples(tmp_path / "a.db")
    assert "\n" not in caught.value.message


def zips() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as file:
            for number in range(2):
                file.writestr(f"a/{number}é.png", b"0123456789" * 30)
        found.append(buffer.getvalue())
    return found


def test_a_member_of_a_damaged_zip_is_read_or_a_reject(tmp_path: Path) -> None:
    """Names that are no UTF-8, LZMA that is none and an empty name ended a run."""
    chance, refused, whole = random.Random(3), 0, zips()
    for number in range(400):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            place = chance.randrange(len(data))
            data[place] = chance.choice((data[place] ^ (1 << chance.randrange(8)), 0, 255, 128))
        path = tmp_path / f"{number}.zip"
        path.write_bytes(data)
        try:
            read_bytes(f"{path}::a/0é.png")
        except Reject:
            refused += 1
    assert 100 < refused < 400


@pytest.mark.parametrize(
    "place", ["0+99999999999999", "99999999999999999999999+1", "-5+10", "0+-1", "0+9000000000", f"{'9' * 5000}+1"]
)
def test_a_row_that_lies_outside_of_its_file_is_a_reject(place: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "data:image/png;base64,AAAA"}\n')
    assert read_bytes(f"{path}::0+39/image") == b"\0\0\0"
    with pytest.raises(Reject) as caught:
        read_bytes(f"{path}::{place}/image")
    assert caught.value.reason == "missing_key"


@pytest.mark.parametrize("name", ["a.gz", "a.jsonl"])
def test_a_media_in_a_text_that_does_not_unpack_is_a_reject(name: str, tmp_path: Path) -> None:
    text = b'{"image": "AAAA"}'
    (tmp_path / name).write_bytes(gzip.compress(text)[:-3] if name == "a.gz" else text.decode().encode("utf-16")[:-1])
    with pytest.raises(Reject) as caught:
        read_bytes(f"{tmp_path / name}::0+17/image")
    assert caught.value.reason == "unreadable_file"


def test_an_lmdb_whose_file_is_a_link_lies_where_the_link_leads(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.mdb"
    (root / "db").mkdir(parents=True)
    outside.write_bytes(b"x")
    (root / "db" / "data.mdb").symlink_to(outside)
    assert not check_roots([str(root)]).holds(f"{root / 'db'}::key")
    (root / "db" / "data.mdb").unlink()
    (root / "db" / "data.mdb").write_bytes(b"x")
    assert check_roots([str(root)]).holds(f"{root / 'db'}::key")
