"""Digests of rows that were written down (folders, tars): a file that is touched or added leaves the others alone."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_prep.ingest.raw_samples import RawSamples
from vlm_prep.ingest.row_digests import row_digests, sample_ids
from vlm_prep.ingest.source import open_samples

TURNS = ["user=<image>What?", "assistant={text}"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))


def digests(source: Path) -> list[bytes]:
    found = row_digests(open_samples(source, turns=TURNS))
    assert found is not None
    return [row.tobytes() for row in found]


def later(path: Path) -> None:
    """Let a file be seen as changed on file systems with coarse times."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def picture(path: Path, shade: int) -> None:
    Image.fromarray(np.full((6, 8, 3), shade, np.uint8)).save(path)


def test_of_a_folder_of_pictures_a_row_with_another_text_alone_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        picture(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(f"picture {number}")
    before = digests(folder)
    picture(folder / "0.png", 99)  # which the state of its media tells
    later(folder / "0.png")
    assert digests(folder) == before
    (folder / "1.txt").write_text("another text")
    later(folder / "1.txt")
    assert [now == then for now, then in zip(digests(folder), before, strict=True)] == [True, False, True]
    picture(folder / "3.png", 3)
    (folder / "3.txt").write_text("picture 3")
    assert digests(folder)[2:3] == before[2:] and len(digests(folder)) == 4


def test_of_tars_those_of_a_further_one_are_new_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(2):
                shown = io.BytesIO()
                Image.new("RGB", (8, 6), (shard, number, 0)).save(shown, "PNG")
                for ending, data in (("png", shown.getvalue()), ("txt", f"{shard} {number}".encode())):
                    member = tarfile.TarInfo(f"{number}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        if not shard:
            before = digests(folder)
    assert len(before) == 2 and digests(folder)[:2] == before


def test_what_a_store_knows_changes_no_digest(tmp_path: Path) -> None:
    """A row that holds its picture has its place in its digest, also where other rows are known by theirs."""
    picture(tmp_path / "shown.png", 7)
    inside = "data:image/png;base64," + base64.b64encode((tmp_path / "shown.png").read_bytes()).decode()
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "A"}]}) + "\n"
        for n in range(4)
    ]
    shown = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A"}]
    lines.insert(2, json.dumps({"messages": shown, "images": [inside]}) + "\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(lines))
    before = row_digests(open_samples(rows))
    rows.write_text("".join([lines[3], *lines, lines[2]]))
    now = row_digests(open_samples(rows))
    assert before is not None and now is not None
    same = [row.tobytes() in {each.tobytes() for each in before} for row in now]
    assert same == [True, True, True, False, True, True, False]
    for known in (before, now):
        found = row_digests(open_samples(rows), known=known)
        assert found is not None and found.tolist() == now.tolist()


@pytest.mark.parametrize("ratio", [None, 0.5, 2.5])
def test_all_sample_ids_at_once_are_those_of_each_place(tmp_path: Path, ratio: float | None) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    (tmp_path / "rows.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 40)
    samples = open_samples(tmp_path / "rows.jsonl", sample_ratio=ratio)
    assert isinstance(samples, RawSamples)
    (source,) = samples.sources
    assert sample_ids(samples) == [source.sample_id(place) for place in range(len(source))]
