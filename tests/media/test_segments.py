"""A row that means a part of a file trains on that part: lengths, waveforms, stored forms; or it is rejected."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media, Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.core.stored_media import store_media
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.audio import read_waveform, resampled_length
from vlm_prep.media.decode import load_media
from vlm_prep.media.probe import probe
from vlm_prep.shards.layout import read_rejects

Options = Callable[..., RunOptions]
RATE = 22050


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An 11 s recording in several formats."""
    folder = tmp_path_factory.mktemp("clips")
    wave = np.random.default_rng(0).normal(0, 0.1, (11 * RATE, 2)).astype(np.float32)
    for name in ("a.wav", "a.flac", "a.ogg", "a.mp3"):
        soundfile.write(folder / name, wave, RATE)
    return folder


def stored(media: Media, data: tuple[bytes, ...] | None) -> dict[str, Any]:
    header = media.header
    assert header is not None
    return store_media(media, data)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("keep", [False, True], ids=["reference", "encoded"])
@pytest.mark.parametrize(("start", "end"), [(None, 2.0), (3.5, 5.5), (9.0, None), (0.00001, 10.99999), (10.5, 11.004)])
def test_a_part_is_what_a_file_cut_out_beforehand_holds(
    clips: Path, tmp_path: Path, name: str, keep: bool, start: float | None, end: float | None
) -> None:
    path = clips / name
    media, data = probe(Media(kind="audio", uris=(str(path),), start=start, end=end), keep_bytes=keep)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    part = whole[round((start or 0) * RATE) : min(len(whole), round((end or 11) * RATE))]
    soundfile.write(tmp_path / "part.wav", part, RATE, subtype="FLOAT")
    expected = read_waveform((tmp_path / "part.wav").read_bytes(), 16000, "part")
    assert media.header is not None and media.header.samples == len(part)
    found = load_media(stored(media, data), rate=16000)
    assert np.asarray(found).shape == (resampled_length(len(part), RATE, 16000),)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("start", "end"), [(11.0, None), (12.0, 13.0), (3.0, 11.5), (None, 1e-9)])
def test_a_part_that_is_not_in_the_file_is_rejected(clips: Path, start: float | None, end: float | None) -> None:
    with pytest.raises(Reject) as caught:
        probe(Media(kind="audio", uris=(str(clips / "a.wav"),), start=start, end=end))
    assert caught.value.reason.value == "bad_media_entry"


def test_a_part_that_is_all_of_the_file_is_stored_as_the_file(clips: Path) -> None:
    media, _ = probe(Media(kind="audio", uris=(str(clips / "a.wav"),), end=11.0))
    assert media.header is not None and media.header.segment is None


def test_bounds_of_duration_are_those_of_the_part(clips: Path) -> None:
    with pytest.raises(Reject, match="2 s, the shortest"):
        probe(Media(kind="audio", uris=(str(clips / "a.wav"),), start=1.0, end=3.0, min_seconds=2.5))


def ingested(
    out: Path, rows: list[dict[str, Any]], options: Options, *, folder: Path | None = None, **source: Any
) -> tuple[dict[str, Sample], dict[str, str]]:
    folder, out = (out, out / "out") if folder is None else (folder, out)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest(open_samples(folder / "rows.jsonl", **source), IngestConfig(), options(out, max_reject_rate=1.0))
    samples = open_samples(out)
    read = [each for each in samples.read(0, len(samples)) if isinstance(each, Sample)]
    return {each.sample_id: each for each in read}, {row["sample_id"]: row["reason"] for row in read_rejects(out)}


def test_the_rows_of_a_manifest_take_their_parts(clips: Path, tmp_path: Path, options: Options, kit: Path) -> None:
    (tmp_path / "clips").symlink_to(clips)
    rows = [json.loads(line) for line in (kit / "cases" / "14a-segments" / "kaldi.jsonl").read_text().splitlines()]
    samples, rejects = ingested(tmp_path, rows, options)
    headers = [sample.media[0].header for sample in samples.values()]
    assert rejects == {}
    assert [header and header.samples for header in headers] == [11 * RATE, 2 * RATE, 2 * RATE, 2 * RATE]
    assert [header and header.segment for header in headers] == [
        None, (0, 2 * RATE), (int(3.5 * RATE), int(5.5 * RATE)), (0, 2 * RATE),
    ]  # fmt: skip


def test_entries_of_any_format_take_their_parts(clips: Path, tmp_path: Path, options: Options) -> None:
    entries = [
        {"path": "a.wav", "offset": 1, "duration": 2},
        {"path": "a.wav", "start": 1, "end": 3.0},
        {"audio": "a.wav", "audio_start": 1.0, "audio_end": 3},
        {"path": "a.wav", "start_time": 1, "end": 3, "duration": 2},
        {"path": "a.wav", "start": 1, "end": 4, "duration": 2},
        {"path": "a.wav", "start": 3, "end": 3},
        {"path": "a.wav", "start": "one"},
        {"path": "a.wav", "start": 1, "offset": 2},
        {"path": "a.wav", "start_ms": 1000, "end_ms": 3000},
        {"path": "a.wav", "segment": [1, 3]},
        {"path": "a.wav", "start_sec": "1", "end_seconds": "3.0"},
    ]
    turns = [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": "ok"}]
    for name in ("a.wav",):
        (tmp_path / name).symlink_to(clips / name)
    samples, rejects = ingested(tmp_path, [{"messages": turns, "audios": [entry]} for entry in entries], options)
    headers = [sample.media[0].header for sample in samples.values()]
    assert [header and header.segment for header in headers] == [(RATE, 3 * RATE)] * 5
    assert set(rejects.values()) == {"bad_media_entry"} and len(rejects) == 6


def test_a_picture_has_no_part_in_seconds(tmp_path: Path, options: Options) -> None:
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "ok"}]
    _, rejects = ingested(tmp_path, [{"messages": turns, "images": [{"path": "a.png", "start": 1}]}], options)
    assert set(rejects.values()) == {"bad_media_entry"}


# --- frames given flat -----


def test_the_kits_frames_are_one_video_however_they_are_given(kit: Path, tmp_path: Path, options: Options) -> None:
    folder = kit / "cases" / "13-frame-folders"
    out = tmp_path / "out"
    ingest(open_samples(folder / "rows.jsonl"), IngestConfig(), options(out, max_reject_rate=1.0))
    samples = open_samples(out)
    read = [each for each in samples.read(0, len(samples)) if isinstance(each, Sample)]
    videos = [each.media[0] for each in read]
    assert [row["reason"] for row in read_rejects(out)] == ["bad_media_entry"]
    assert [len(each.media) for each in read] == [1] * 11
    assert sorted({len(video.uris) for video in videos}) == [1, 11]
    names = [f"{number}.png" for number in range(1, 12)]
    assert all([Path(uri).name for uri in video.uris] == names for video in videos if len(video.uris) == 11)
    assert [video.fps for video in videos if video.fps] == [2.0, 2.0, 2.0]


# --- parts that the row itself names -----


def test_the_only_file_of_a_row_takes_the_part_that_the_row_names(
    clips: Path, tmp_path: Path, options: Options
) -> None:
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(clips / "a.wav", "in/a.wav")
    (tmp_path / "a.wav").symlink_to(clips / "a.wav")
    turns = [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": "ok"}]
    part = {"offset": 1, "duration": 2}
    rows: list[dict[str, Any]] = [
        {"messages": turns, "audio": "a.wav", **part},
        {"messages": turns, "audios": ["clips.zip::in/a.wav"], "start": 1.0, "end": 3},
        {"messages": turns, "audio": {"path": "a.wav", "start": 1, "end": 3}, "begin": "1", "end": "3.0"},
        {"messages": turns, "audio": "a.wav", "duration": 11.4},  # how long the file is, as people say it
        {"messages": turns, "audio": "a.wav", "start": 0, "end": None},
        {"messages": turns, "audio": "a.wav", "start_ms": 1000, "end_ms": 3000},
        {"messages": turns, "audio": {"path": "a.wav", "start": 1, "end": 4}, **part},
        {"messages": [{**turns[0], "content": "<audio><audio>?"}, turns[1]], "audios": ["a.wav", "a.wav"], **part},
    ]
    samples, rejects = ingested(tmp_path, rows, options)
    headers = [sample.media[0].header for sample in samples.values()]
    assert [header and header.segment for header in headers] == [(RATE, 3 * RATE)] * 3 + [None] * 2
    assert list(rejects.values()) == ["unread_key", "bad_media_entry", "unread_key"]


@pytest.mark.parametrize(
    ("columns", "segment"),
    [
        ({"start": 0, "duration": 2}, (0, 2 * RATE)),
        ({"offset": "0", "duration": "2.0"}, (0, 2 * RATE)),
        ({"start_sec": 0, "end_sec": 2}, (0, 2 * RATE)),
        ({"duration": 11.4}, None),
        ({"duration_ms": 10_600}, None),
        ({"audio_duration": 2.0}, "duration, 2 s, and the file is 11 s long"),
        ({"duration": 2.0}, "duration, 2 s, and the file is 11 s long"),
        ({"duration_ms": 2000}, "duration_ms, 2 s, and the file is 11 s long"),
        ({"segment": [0, 2]}, "has segment ([0, 2])"),
        ({"to": 2, "from": 0}, "has to (2)"),
        ({"from": "en", "to": "de"}, None),
        ({"segment": "intro"}, None),
    ],
)
def test_a_part_from_the_beginning_is_not_the_whole_file(
    clips: Path, tmp_path: Path, options: Options, columns: dict[str, Any], segment: tuple[int, int] | str | None
) -> None:
    (tmp_path / "a.wav").symlink_to(clips / "a.wav")
    turns = [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": "ok"}]
    row = {"messages": turns, "audio": "a.wav", **columns}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    ingest(open_samples(tmp_path / "rows.jsonl"), IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0))
    if isinstance(segment, str):
        (reject,) = read_rejects(tmp_path / "out")
        assert reject["reason"] == "unread_key" and segment in reject["message"]
        assert f"ignore_keys={next(iter(columns))}" in reject["message"]
        samples, rejects = ingested(tmp_path / "again", [row], options, ignore_keys=tuple(columns), folder=tmp_path)
        segment = None
    else:
        samples, rejects = ingested(tmp_path / "again", [row], options, folder=tmp_path)
    (sample,) = samples.values()
    assert rejects == {} and sample.media[0].header is not None and sample.media[0].header.segment == segment


def test_a_manifest_of_files_in_an_archive_or_of_texts_takes_its_parts(
    clips: Path, tmp_path: Path, options: Options
) -> None:
    with tarfile.open(tmp_path / "clips.tar", "w") as archive:
        archive.add(clips / "a.wav", "in/a.wav")
    lines = ["audio\tbegin\tend\ttext", "clips.tar::in/a.wav\t1\t3.0\thi", "clips.tar::in/a.wav\t1.0\t\thi"]
    (tmp_path / "rows.tsv").write_text("\n".join(lines) + "\n")
    ingest(open_samples(tmp_path / "rows.tsv"), IngestConfig(), options(tmp_path / "out"))
    samples = open_samples(tmp_path / "out")
    headers = [each.media[0].header for each in samples.read(0, 2) if isinstance(each, Sample)]
    assert [header and header.segment for header in headers] == [(RATE, 3 * RATE), (RATE, 11 * RATE)]


def test_a_mapped_row_takes_the_part_that_it_names(clips: Path, tmp_path: Path, options: Options) -> None:
    (tmp_path / "a.wav").symlink_to(clips / "a.wav")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"clip": "a.wav", "start": 1, "duration": 2, "said": "x"}) + "\n")
    how: Any = {"columns": {"audios": "clip"}, "turns": ["user=<audio>?", "assistant={said}"]}
    (sample,) = open_samples(tmp_path / "rows.jsonl", **how).read(0, 1)
    assert isinstance(sample, Sample) and (sample.media[0].start, sample.media[0].end) == (1.0, 3.0)


def test_the_files_of_a_manifest_may_lie_in_a_tar_as_their_media_folder(
    clips: Path, tmp_path: Path, options: Options
) -> None:
    with tarfile.open(tmp_path / "audio_0.tar", "w") as archive:
        archive.add(clips / "a.wav", "a.wav")
    row = {"audio_filepath": "a.wav", "offset": 1.0, "duration": 2.0, "text": "hi", "shard_id": 0}
    (tmp_path / "manifest.json").write_text(json.dumps(row) + "\n")
    samples = open_samples(tmp_path / "manifest.json", media_dir=f"{tmp_path}/audio_0.tar::")
    ingest(samples, IngestConfig(), options(tmp_path / "out"))
    (sample,) = open_samples(tmp_path / "out").read(0, 1)
    assert isinstance(sample, Sample) and sample.media[0].header is not None
    assert sample.media[0].header.segment == (RATE, 3 * RATE)
