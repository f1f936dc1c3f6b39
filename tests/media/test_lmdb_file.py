"""Values of an LMDB read without liblmdb: the same ones, and never a crash on a damaged file."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import lmdb
import pytest

from vlm_prep.media.lmdb_file import LmdbFile


def fill(path: Path, rounds: int, **settings: bool) -> dict[bytes, bytes]:
    """Write, overwrite and delete keys of random lengths in several transactions; return what is left."""
    chance, kept = random.Random(rounds), {}
    with lmdb.open(str(path), subdir=False, map_size=1 << 28, **settings) as made:
        for _ in range(rounds):
            with made.begin(write=True) as writing:
                for _ in range(400):
                    key = chance.randbytes(chance.choice((1, 8, 8, 40, 511)))
                    value = chance.randbytes(chance.choice((0, 1, 100, 2000, 5000, 60_000)))
                    writing.put(key, value)
                    kept[key] = value
                for key in chance.sample(sorted(kept), len(kept) // 5):
                    writing.delete(key)
                    del kept[key]
    return kept


@pytest.mark.parametrize("rounds", [1, 5])
def test_every_key_has_the_value_that_liblmdb_gives(tmp_path: Path, rounds: int) -> None:
    kept = fill(tmp_path / "a.lmdb", rounds)
    read = LmdbFile(str(tmp_path / "a.lmdb"))
    assert {key: read.get(key) for key in kept} == kept
    for key in [b"", b"\xff" * 511, b"no", *(key + b"x" for key in list(kept)[:50]), b"x" * 600]:
        assert read.get(key) is None


def test_what_a_writer_adds_later_is_seen(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, map_size=1 << 20) as made:
        with made.begin(write=True) as writing:
            writing.put(b"a", b"1")
        read = LmdbFile(str(tmp_path / "a.lmdb"))
        assert (read.get(b"a"), read.get(b"b")) == (b"1", None)
        with made.begin(write=True) as writing:
            writing.put(b"b", b"2")
        assert read.get(b"b") == b"2"


def test_a_database_without_keys_has_none(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "a.lmdb"), subdir=False).close()
    assert LmdbFile(str(tmp_path / "a.lmdb")).get(b"a") is None


def test_keys_in_another_order_and_databases_inside_are_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, max_dbs=1) as made:
        made.open_db(b"inner")
    with pytest.raises(ValueError, match="a database inside"):
        LmdbFile(str(tmp_path / "a.lmdb")).get(b"inner")
    fill(tmp_path / "b.lmdb", 1)
    data = bytearray((tmp_path / "b.lmdb").read_bytes())
    for page in (0, 4096):  # a main database with MDB_REVERSEKEY, which py-lmdb cannot make
        data[page + 16 + 24 + 48 + 4] |= 0x02
    (tmp_path / "b.lmdb").write_bytes(data)
    with pytest.raises(ValueError, match="order"):
        LmdbFile(str(tmp_path / "b.lmdb")).get(b"ab")


def test_a_damaged_file_gives_values_or_a_message_and_ends_no_process(tmp_path: Path) -> None:
    kept = fill(tmp_path / "a.lmdb", 1)
    whole, chance, refused = (tmp_path / "a.lmdb").read_bytes(), random.Random(0), 0
    for number in range(150):
        data = bytearray(whole)
        for _ in range(20):
            # headers of pages are where harm is done
            place = chance.randrange(len(data) // 4096) * 4096 + chance.randrange(200)
            data[place] ^= 1 << chance.randrange(8)
        if number % 3 == 0:
            del data[chance.randrange(len(data)) :]
        path = tmp_path / f"{number}.lmdb"
        path.write_bytes(data)
        for key in chance.sample(sorted(kept), 20):
            try:
                LmdbFile(str(path)).get(key)
            except ValueError:
                refused += 1
        path.unlink()
    assert refused > 100
    shutil.rmtree(tmp_path)


def test_a_value_of_gigabytes_in_a_file_that_is_mostly_a_hole_is_refused(tmp_path: Path) -> None:
    """The length alone is read: 3 GiB would come back as 2, without a word, since Linux reads no more at once."""
    path = tmp_path / "a.lmdb"
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as made, made.begin(write=True) as writing:
        writing.put(b"a", b"x" * 100_000)
    data, length = bytearray(path.read_bytes()), 3 << 30
    data = data.replace((100_000).to_bytes(4, "little"), length.to_bytes(4, "little"))  # of the node
    for page in (0, 4096):
        place = page + 16 + 8 + 16 + 96  # last page
        data[place : place + 8] = (1 << 20).to_bytes(8, "little")
    head = next(at for at in range(0, len(data), 4096) if data[at + 10] == 0x04)
    data[head + 12 : head + 16] = (1 << 20).to_bytes(4, "little")  # pages of the value
    path.write_bytes(data)
    with open(path, "r+b") as file:
        file.truncate((1 << 20) * 4096 + 4096)
    with pytest.raises(ValueError, match=r"a value of 3,221,225,472 bytes, more than"):
        LmdbFile(str(path)).get(b"a")
