"""NeMo's sets of speech in several tars."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Sample
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.probe import probe


def tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))


ROWS = [
    {"audio_filepath": f"a_{shard}{part}.wav", "offset": start, "duration": 1.5, "text": f"{shard}{part}"}
    for shard in (0, 1, 10)
    for part, start in (("", 0.0), ("-sub1", 1.5))
]


@pytest.fixture
def tarred(tmp_path: Path) -> Path:
    (tmp_path / "sharded_manifests").mkdir()
    for shard in (0, 1, 10):
        tar(tmp_path / f"audio_{shard}.tar", f"a_{shard}.wav")
        own = [row for row in ROWS if row["text"] in (f"{shard}", f"{shard}-sub1")]
        written = "\n".join(map(json.dumps, own))
        (tmp_path / "sharded_manifests" / f"manifest_{shard}.json").write_text(written)
    return tmp_path


def whole(folder: Path, *more: dict[str, Any]) -> Path:
    path = folder / "tarred_audio_manifest.json"
    rows = [{**row, "shard_id": int(str(row["text"]).split("-")[0])} for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *more)))
    return path


def said(source: str | Path, **options: Any) -> list[tuple[str, Any, Any, str]]:
    samples = open_samples(source, **options)
    return [
        (each.media[0].uris[0].rpartition("/")[2], each.media[0].start, each.media[0].end, each.messages[-1]["content"])
        for each in samples.read(0, len(samples))
        if isinstance(each, Sample)
    ]


def test_a_set_of_several_tars_is_its_manifests(tarred: Path) -> None:
    expected = [
        (f"audio_{shard}.tar::a_{shard}.wav", *part, [{"type": "text", "text": f"{shard}{name}"}])
        for shard in (0, 1, 10)
        for name, part in (("", (None, 1.5)), ("-sub1", (1.5, 3.0)))
    ]
    assert said(tarred) == expected
    manifest = whole(tarred)
    assert said(tarred) == said(manifest) == expected
    assert said(f"{tarred}/audio__OP_0..1_CL_.tar") == said(f"{tarred}/audio_{{0..1}}.tar") == expected[:4]
    with pytest.raises(InputError, match=r"8 tars of the range are missing, e\.g\. audio_2\.tar"):
        open_samples(f"{tarred}/audio__OP_0..10_CL_.tar")


def test_rows_of_a_tar_that_is_not_there_and_damaged_ones_are_rejects(tarred: Path) -> None:
    gone = {**ROWS[0], "shard_id": 7}
    manifest = whole(tarred, gone, ROWS[0])
    with manifest.open("a") as file:
        file.write("{broken\n")
    rows = list((samples := open_samples(tarred)).read(6, len(samples)))
    assert isinstance(rows[0], Sample) and rows[0].media[0].uris[0].endswith("audio_7.tar::a_0.wav")
    with pytest.raises(Reject, match=r"audio_7\.tar"):
        probe(rows[0].media[0])
    assert [getattr(row, "reason", None) for row in rows[1:]] == ["bad_row", "bad_row"]


def test_a_manifest_may_say_its_tar_by_media_dir(tmp_path: Path) -> None:
    tar(tmp_path / "audio_0.tar", "a_0.wav")
    (tmp_path / "m.json").write_text(json.dumps(ROWS[0]))
    (row,) = open_samples(tmp_path / "m.json", media_dir=f"{tmp_path / 'audio_0.tar'}::").read(0, 1)
    assert isinstance(row, Sample) and row.media[0].uris[0].startswith(f"{tmp_path / 'audio_0.tar'}::")
