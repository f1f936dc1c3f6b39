"""Tars and zips as sources that hold links, a file twice, other archives: a reject or a refusal in one line."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects


def picture(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


def chat(*tags: str) -> bytes:
    turns = [{"from": "human", "value": "".join(tags) + "What?"}, {"from": "gpt", "value": "A cup."}]
    return json.dumps({"id": "1", "conversations": turns}).encode()


def test_a_row_of_a_tar_with_a_file_twice_or_a_link_is_a_reject(tmp_path: Path, options: Callable[..., Any]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            archive.addfile(info, io.BytesIO(data))

        add("d", kind=tarfile.DIRTYPE)
        for name in ("1", "2", "3", "4", "5"):
            add(f"d/{name}.json", chat("<image>"))
            if name in "12":
                add(f"d/{name}.png", picture(int(name)))
        add("d/5.png", picture(5))
        add("d/5.png", picture(6))
        add("d/6.json", chat("<image>"))
        add("d/6.png", kind=tarfile.SYMTYPE, link="1.png")
        add("d/7.json", chat("<image>"))
        add("d/7.png", kind=tarfile.LNKTYPE, link="d/1.png")
        add("d/8.json", chat())
        add("d/8.json", chat())
        add("d/2.json", chat("<image>"))  # a name that an earlier row has, as in shards that were put together
        add("d/2.png", picture(9))
    source, out = open_samples(tmp_path / "a.tar"), tmp_path / "out"
    manifest = ingest(source, IngestConfig(), options(out, max_reject_rate=1.0))
    assert manifest and manifest.totals["rows_in"] == 9
    kept, rejects = open_samples(out), read_rejects(out)
    samples = [row for row in kept.read(0, len(kept)) if isinstance(row, Sample)]
    assert [uri.rpartition("::")[2] for each in samples for media in each.media for uri in media.uris] == ["d/1.png"]
    told = {each["line"]: (each["reason"], each["message"]) for each in rejects}
    assert [told[line][0] for line in sorted(told)] == [
        *("unreadable_file", "media_count_mismatch", "media_count_mismatch"),
        *("bad_row", "bad_row", "bad_row", "bad_row", "unreadable_file"),
    ]
    assert "two files of this name" in told[5][1]
    assert "a link (make the tar with -h --hard-dereference) to 1.png" in told[6][1]
    assert "several files of this name, with different contents" in told[2][1]


def test_archives_in_archives_are_refused_in_one_line(tmp_path: Path) -> None:
    rows = b'{"messages": []}\n'
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("rows.jsonl", rows)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.zip", inner.getvalue())
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("1.json"))
    (tmp_path / "a.tar").write_bytes(whole.getvalue())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole.getvalue()))
    (tmp_path / "a.jsonl").write_bytes(inner.getvalue())
    for name in ("a.zip", "a.zip::b.zip", "a.tar.gz", "a.jsonl", "a.tar::1.json"):
        with pytest.raises(InputError) as refused:
            open_samples(tmp_path / name)
        assert "\n" not in refused.value.message
