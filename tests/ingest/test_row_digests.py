"""Digests of rows that were written down (folders, tars): a file that is touched or added leaves the others alone."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_prep.ingest.row_digests import row_digests
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
