"""Where a row's media lie: other readings of a path, bounds, and what is no file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Media
from vlm_prep.core.remote import require_possible
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.places import check_roots, located, natural_order
from vlm_prep.media.probe import probe
from vlm_prep.media.rules import MediaRules
from vlm_prep.shards.layout import read_rejects
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 28), (9, 99, 199)).save(path, "PNG")
    return path


def place(uri: str | Path) -> str:
    return located(Media(kind="image", uris=(str(uri),)), check_roots(None)).uris[0]


def reason(media: Media, rules: MediaRules | None = None) -> tuple[str, str]:
    with pytest.raises(Reject) as caught:
        probe(media, rules=rules or MediaRules())
    return caught.value.reason.value, caught.value.message


# --- other readings of a path -----


@pytest.mark.parametrize(
    ("lies", "written"),
    [
        ("sub dir/a  b.png", "sub%20dir/a%20%20b.png"),
        ("sub dir/a.png", "sub dir\\a.png"),
        ("a%20b.png", "a b.png"),
        ("a%20b,é.png", "a b,é.png"),
        ("a%2Cb%20c.png", "a,b c.png"),
        ("sub dir/a.png", "sub%20dir\\a.png"),
        ("a.png", "a.png\n"),
        ("a.png", " a.png "),
        ("a.png ", "A.png%20"),
        ("a.png", "\ufeffa.png\u200b "),
        (unicodedata.normalize("NFD", "café/é.png"), unicodedata.normalize("NFC", "café/é.png")),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
        ("UPPER/Ü.PNG", "upper/ü.png"),
        ("imgs/a.png", "imgs/imgs/a.png"),
        ("data/imgs/a.png", "data/imgs/data/imgs/a.png"),
    ],
)
def test_the_one_other_reading_that_exists_is_taken_and_noted(tmp_path: Path, lies: str, written: str) -> None:
    path = picture(tmp_path / lies)
    media, _ = probe(Media(kind="image", uris=(f"{tmp_path}/{written}",)))
    assert media.uris == (str(path),)
    assert media.notes == ("paths_read_otherwise",)


def test_the_path_as_written_comes_first(tmp_path: Path) -> None:
    written = picture(tmp_path / "a%20b.png")
    picture(tmp_path / "a b.png")
    assert place(written) == str(written)


def test_of_two_other_readings_none_is_taken(tmp_path: Path) -> None:
    picture(tmp_path / "a.PNG")
    picture(tmp_path / "A.png")
    code, message = reason(Media(kind="image", uris=(str(tmp_path / "a.png"),)))
    assert code == "missing_file" and "2 others" in message and "A.png" in message


def test_a_missing_file_says_what_was_tried(tmp_path: Path) -> None:
    code, message = reason(Media(kind="image", uris=(f"{tmp_path}/no%20file.png",)))
    assert code == "missing_file"
    assert "no%20file.png: no such file" in message and f"'{tmp_path}/no file.png'" in message
    once = reason(Media(kind="image", uris=("/host\\none.png",)))[1]
    assert once.count("'/host/none.png'") == 1


def test_a_key_of_an_lmdb_stays_as_it_is_written(tmp_path: Path) -> None:
    environment = lmdb.open(str(tmp_path / "Pictures.lmdb"))
    with environment.begin(write=True) as transaction:
        transaction.put(b"a%20b", picture(tmp_path / "x.png").read_bytes())
    environment.close()
    media, _ = probe(Media(kind="image", uris=(f"{tmp_path}/pictures.lmdb::a%20b",)))
    assert media.uris == (f"{tmp_path}/Pictures.lmdb::a%20b",)


def test_the_kits_odd_paths_are_read_where_they_can_mean_one_thing(kit: Path, tmp_path: Path, options: Options) -> None:
    folder = kit / "cases" / "03-odd-paths"
    text = (folder / "rows.jsonl").read_text().replace("\\/", "/").replace("/ABSOLUTE/03-odd-paths", str(folder))
    (tmp_path / "rows.jsonl").write_text(text)
    samples = open_samples(tmp_path / "rows.jsonl", media_dir=str(folder))
    manifest = ingest(samples, IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0))
    assert manifest is not None
    assert manifest.totals["rejects"] == {"missing_file": 3, "unreadable_file": 1, "unsupported_media": 1}
    assert manifest.totals["paths_read_otherwise"] == 7


# --- folders of frames -----


def test_numbers_in_names_are_sorted_as_numbers() -> None:
    names = ["f10.png", "f2.png", "f1.png", "g1.png", "f02b.png", "f.png"]
    assert sorted(names, key=natural_order) == ["f1.png", "f2.png", "f02b.png", "f10.png", "f.png", "g1.png"]


def test_a_folder_as_a_video_is_its_frames_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10, 9):
        picture(tmp_path / "clip" / f"{number}.png")
    for name in (".hidden", "Thumbs.db", "desktop.ini"):
        (tmp_path / "clip" / name).touch()
    media, _ = probe(Media(kind="video", uris=(f"{tmp_path}/clip",)))
    assert [os.path.basename(uri) for uri in media.uris] == ["1.png", "2.png", "9.png", "10.png"]
    assert media.frame_list and media.header is not None and media.header.total_frames == 4


def test_a_folder_without_frames_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "clip" / "inner").mkdir(parents=True)
    assert reason(Media(kind="video", uris=(f"{tmp_path}/clip",)))[0] == "bad_media_entry"
    assert reason(Media(kind="video", uris=(f"{tmp_path}/clip/inner",)))[0] == "bad_media_entry"


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"frame_indices": (0, 2)}, "bad_frame_indices"),
        ({"start": 1.0}, "bad_media_entry"),
        ({"end": 1.0}, "bad_media_entry"),
    ],
)
def test_a_part_of_a_folder_of_frames_is_refused(tmp_path: Path, part: Any, code: str) -> None:
    for number in range(4):
        picture(tmp_path / "clip" / f"{number}.png")
    found, said = reason(Media(kind="video", uris=(f"{tmp_path}/clip",), fps=2.0, **part))
    assert found == code and "list the frames" in said


# --- bounds -----


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A picture beside `inside`, and links and tables in it that lead to it."""
    secret = picture(tmp_path / "secret.png")
    inside = tmp_path / "inside"
    picture(inside / "a.png")
    (inside / "link.png").symlink_to(secret)
    (inside / "folder").symlink_to(tmp_path)
    pq.write_table(pa.table({"p": [secret.read_bytes()]}), tmp_path / "t.parquet")
    return inside


@pytest.mark.parametrize(
    "written",
    ["{0}/secret.png", "{0}/inside/../secret.png", "{0}/inside/link.png", "{0}/inside/folder/secret.png",
     "{0}/inside/folder/SECRET.png", "{0}/t.parquet::0/p", "{0}/inside/folder/t.parquet::0/p", "s3://bucket/a.png"],
)  # fmt: skip
@pytest.mark.parametrize("as_frame", [False, True], ids=["picture", "frame"])
def test_a_row_reads_nothing_outside_of_its_roots(tmp_path: Path, outside: Path, written: str, as_frame: bool) -> None:
    rules = MediaRules(roots=check_roots([str(outside)]))
    uri = written.format(tmp_path)
    media = Media(kind="image", uris=(uri,))
    if as_frame:
        media = Media(kind="video", uris=(f"{outside}/a.png", uri), frame_list=True)
    assert reason(media, rules)[0] == "outside_media_root"


def test_a_folder_of_frames_outside_is_not_listed(tmp_path: Path, outside: Path) -> None:
    rules = MediaRules(roots=check_roots([str(outside)]))
    assert reason(Media(kind="video", uris=(str(tmp_path),)), rules)[0] == "outside_media_root"
    assert reason(Media(kind="video", uris=(f"{outside}/folder",)), rules)[0] == "outside_media_root"


def test_what_lies_within_is_read_also_by_a_link_to_the_root(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "root").symlink_to(outside)
    rules = MediaRules(roots=check_roots([str(tmp_path / "root")]))
    for uri in (f"{outside}/a.png", f"{tmp_path}/root/a.png", f"{outside}/folder/inside/a.png"):
        assert probe(Media(kind="image", uris=(uri,)), rules=rules)[0].header is not None


def test_a_prefix_of_a_bucket_bounds_rows_of_it() -> None:
    roots = check_roots(["s3://b/data"])
    assert roots.holds("s3://b/data/a.png") and roots.holds("s3://b/data/x/../a.png")
    assert not roots.holds("s3://b/data2/a.png") and not roots.holds("s3://b/data/../a.png")
    assert not roots.holds("/etc/passwd") and not roots.holds("s3://other/data/a.png")


def test_cells_of_the_data_file_itself_are_always_its_own(tmp_path: Path, options: Options) -> None:
    (tmp_path / "root").mkdir()
    data = picture(tmp_path / "a.png").read_bytes()
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "ok"}]
    rows = [{"conversations": turns, "images": [{"bytes": data, "path": "x.png"}]} for _ in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    config = IngestConfig(media_root=[str(tmp_path / "root")])
    manifest = ingest(open_samples(tmp_path / "t.parquet"), config, options(tmp_path / "out"))
    assert manifest is not None and manifest.totals["rows_written"] == 3


def test_rows_that_leave_their_own_folders_are_counted_and_said(
    tmp_path: Path, outside: Path, options: Options
) -> None:
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "ok"}]
    paths = ["a.png", "../secret.png", "link.png", str(tmp_path / "secret.png")]
    lines = [json.dumps({"conversations": turns, "images": [path]}) for path in paths]
    (outside / "rows.jsonl").write_text("\n".join(lines))
    said: list[str] = []
    out, samples = tmp_path / "out", open_samples(outside / "rows.jsonl")
    manifest = ingest(samples, IngestConfig(), options(out, say=said.append))
    assert manifest is not None and manifest.totals["media_outside"] == 3
    assert any("3 rows" in line and "--media-root" in line for line in said)
    config = TokenizeConfig(media_root=[str(outside)], verify_fraction=0.0)
    tokenize(samples, "builtin:qwen2.5-vl-mini", config, options(tmp_path / "tok", max_reject_rate=1.0))
    assert {row["reason"] for row in read_rejects(tmp_path / "tok")} == {"outside_media_root"}
    assert len(read_rejects(tmp_path / "tok")) == 3


# --- what is no file -----


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.close()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "l.lmdb").mkdir()
    os.mkfifo(tmp_path / "l.lmdb" / "data.mdb")
    return tmp_path


@pytest.mark.parametrize("read", ["ends", "kept", "whole"])
@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize(
    "name", ["pipe", "socket", "zero", "/dev/zero", "/proc/kmsg", "/proc/self/status", "/sys/kernel/uevent_seqnum",
             "pipe::0", "zero::0", "l.lmdb::0", "pipe::0/a"]
)  # fmt: skip
def test_what_is_no_file_is_not_read(odd: Path, name: str, kind: str, read: str) -> None:
    uri = name if name.startswith("/") else f"{odd}/{name}"
    media = Media(kind=kind, uris=(uri,))  # type: ignore[arg-type]
    with pytest.raises(Reject) as caught:
        probe(media, keep_bytes=read == "kept", rules=MediaRules(whole=read == "whole"))
    assert caught.value.reason.value == "unreadable_file"


@pytest.mark.parametrize("name", ["pipe", "zero", "socket"])
def test_a_data_file_that_is_no_file_is_refused_at_once(odd: Path, name: str) -> None:
    code = "import sys; from vlm_prep.ingest.source import open_samples; open_samples(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(odd / name)], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert "not a file" in done.stderr


# --- addresses that can never work -----


@pytest.mark.parametrize(
    "uri",
    ["s3://UPPER CASE/a.png", "s3://b!/a.png", "s3://bucket", "s3://bucket/", "s3://b/" + "x" * 1025, "s3://b/\x07"],
)
def test_an_address_that_can_never_work_is_the_rows_reject(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_prep.core.remote._missing_package", lambda scheme: None)
    with pytest.raises(Reject) as caught:
        require_possible(uri)
    assert caught.value.reason.value == "bad_media_entry"


def test_a_store_whose_package_is_not_there_rejects_the_row() -> None:
    code, message = reason(Media(kind="image", uris=("gs://bucket/a.png",)))
    assert code == "unsupported_media" and "gcsfs" in message


def test_a_store_that_cannot_be_reached_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InputError, match="could not be asked"):
        probe(Media(kind="image", uris=("s3://bucket/a.png",)))
