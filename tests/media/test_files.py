"""Bytes behind a uri: files, LMDB keys, what is missing, and digests."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb
import pytest

from vlm_prep.core.errors import Reject
from vlm_prep.core.fingerprint import digest_bytes
from vlm_prep.core.records import Media
from vlm_prep.media.files import END_BYTES, digest_ends, digest_matches, ends_of, read_bytes, read_ends, split_uri
from vlm_prep.media.probe import probe


def reason(uri: str) -> str:
    reasons = set()
    for read in (read_bytes, read_ends):
        with pytest.raises(Reject) as caught:
            read(uri)
        reasons.add(caught.value.reason.value)
    assert len(reasons) == 1
    return str(reasons.pop())


def store(path: Path, content: dict[str, bytes], *, subdir: bool = True) -> Path:
    with lmdb.open(str(path), map_size=1 << 24, subdir=subdir) as environment, environment.begin(write=True) as writer:
        for key, value in content.items():
            writer.put(key.encode(), value)
    return path


# --- files -----


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    assert reason(str(tmp_path / "no.jpg")) == "missing_file"


def test_a_path_through_a_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert reason(str(tmp_path / "file" / "a.jpg")) == "missing_file"


def test_a_path_with_a_nul_is_missing(tmp_path: Path) -> None:
    assert reason(f"{tmp_path}/a\0b.jpg") == "missing_file"


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    assert reason(str(tmp_path)) == "unreadable_file"


def test_zero_bytes_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert reason(str(tmp_path / "empty.jpg")) == "empty_file"


def test_a_file_without_permission_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert reason(str(path)) == "unreadable_file"


@pytest.mark.parametrize("size", [1, END_BYTES, END_BYTES + 1, 2 * END_BYTES - 1, 2 * END_BYTES, 3 * END_BYTES])
def test_ends_read_from_disk_are_the_ends_of_the_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    ends = read_ends(str(path))
    assert ends == ends_of(data[:size])
    assert (ends.size, ends.last[-1:]) == (size, data[size - 1 : size])
    if size <= 2 * END_BYTES:
        assert ends.head + ends.tail == data[:size]


# --- LMDB -----


@pytest.mark.parametrize("subdir", [True, False], ids=["folder", "single file"])
def test_a_key_names_bytes_in_an_lmdb(tmp_path: Path, subdir: bool) -> None:
    path = store(tmp_path / "db.lmdb", {"k": b"value", "a/b::c": b"other"}, subdir=subdir)
    assert read_bytes(f"{path}::k") == b"value"
    assert read_ends(f"{path}::k") == ends_of(b"value")
    assert read_bytes(f"{path}::a/b::c") == b"other"


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = store(tmp_path / "db.lmdb", {"k": b"value"})
    assert reason(f"{path}::nope") == "missing_key"
    with pytest.raises(Reject, match="'nope'"):
        read_bytes(f"{path}::nope")


def test_a_missing_lmdb_is_a_missing_file(tmp_path: Path) -> None:
    assert reason(f"{tmp_path}/no.lmdb::k") == "missing_file"


def test_an_empty_value_is_an_empty_file(tmp_path: Path) -> None:
    assert reason(f"{store(tmp_path / 'db.lmdb', {'k': b''})}::k") == "empty_file"


@pytest.mark.parametrize("key", ["", "k" * 600])
def test_a_key_that_lmdb_cannot_hold_is_a_reject(tmp_path: Path, key: str) -> None:
    assert reason(f"{store(tmp_path / 'db.lmdb', {'k': b'v'})}::{key}") in ("unreadable_file", "missing_key")


def test_a_file_that_is_no_lmdb_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "db.lmdb").write_bytes(b"not an LMDB" * 1000)
    assert reason(f"{tmp_path}/db.lmdb::k") == "unreadable_file"


def test_a_real_file_with_two_colons_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a::b.jpg"
    path.write_bytes(b"data")
    assert split_uri(str(path)) == (str(path), None)
    assert read_bytes(str(path)) == b"data"


def test_two_colons_in_a_folder_do_not_hide_the_lmdb(tmp_path: Path) -> None:
    (tmp_path / "a::b").mkdir()
    path = store(tmp_path / "a::b" / "db.lmdb", {"k::1": b"value"})
    assert read_bytes(f"{path}::k::1") == b"value"


def test_one_lmdb_opens_under_two_names(tmp_path: Path) -> None:
    path = store(tmp_path / "db.lmdb", {"k": b"value"})
    (tmp_path / "link").symlink_to(path)
    assert read_bytes(f"{path}::k") == read_bytes(f"{tmp_path}/link::k") == b"value"


def test_a_forked_child_reads_what_its_parent_has_open(tmp_path: Path) -> None:
    uri = f"{store(tmp_path / 'db.lmdb', {'k': b'value'})}::k"
    assert read_bytes(uri) == b"value"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if read_bytes(uri) == b"value" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_bytes(uri) == b"value"


def test_a_picture_in_an_lmdb_is_probed_as_the_file_is(kit: Path) -> None:
    data = kit / "data"
    inside, _ = probe(Media(kind="image", uris=(f"{data}/lmdb_store/images.lmdb::0000000005",)))
    outside, _ = probe(Media(kind="image", uris=(str(data / "images" / "china.jpg"),)))
    assert inside.header == outside.header


# --- digests -----


@pytest.mark.parametrize("size", [10, END_BYTES, END_BYTES + 5, 5 * END_BYTES])
def test_both_digests_match_their_bytes(size: int) -> None:
    data = os.urandom(size)
    assert digest_matches(data, digest_ends(ends_of(data)))
    assert digest_matches(data, digest_bytes(data))


@pytest.mark.parametrize("change", ["first byte", "last byte", "one more", "one less"])
def test_a_changed_end_has_another_digest(change: str) -> None:
    data = os.urandom(3 * END_BYTES)
    changed = {
        "first byte": bytes([data[0] ^ 1]) + data[1:],
        "last byte": data[:-1] + bytes([data[-1] ^ 1]),
        "one more": data + b"\0",
        "one less": data[:-1],
    }[change]
    for digest in (digest_ends(ends_of(data)), digest_bytes(data)):
        assert not digest_matches(changed, digest)


def test_the_full_digest_sees_the_middle_and_the_ends_do_not() -> None:
    data = bytes(4 * END_BYTES)
    changed = data[: 2 * END_BYTES] + b"\1" + data[2 * END_BYTES + 1 :]
    assert digest_matches(changed, digest_ends(ends_of(data)))
    assert not digest_matches(changed, digest_bytes(data))
