"""Media that rows name on an object store: a wrong address is its row's reject, a store that refuses stops the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from s3 import Server

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError
from vlm_prep.core.remote import CHECK_ACCESS
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects

Options = Callable[..., RunOptions]
PHOTO = builtin_data().parent / "photos" / "coffee.jpg"


def rows(folder: Path, *uris: str) -> Path:
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cup."}]
    lines = [json.dumps({"messages": turns, "images": [uri]}) for uri in uris]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "rows.jsonl"


def test_each_wrong_address_is_its_rows_reject(bucket: str, server: Server, tmp_path: Path, options: Options) -> None:
    server.files.put_file(str(PHOTO), f"{bucket}/a.jpg")
    server.files.pipe_file(f"{bucket}/empty.jpg", b"")
    server.files.pipe_file(f"{bucket}/text.jpg", b"no picture")
    wrong = {
        f"{bucket}/absent.jpg": "missing_file",
        f"{bucket}/folder/": "missing_file",
        f"{bucket}/empty.jpg": "empty_file",
        f"{bucket}/text.jpg": "unreadable_image",
        "s3://no-such-bucket-here/a.jpg": "missing_file",
        "s3://in valid/a.jpg": "bad_media_entry",
        f"{bucket}/{'k' * 1100}": "bad_media_entry",
        f"{bucket}/a\x01.jpg": "bad_media_entry",
    }
    source, out = rows(tmp_path, f"{bucket}/a.jpg", *wrong, f"{bucket}/a.jpg"), tmp_path / "out"
    manifest = ingest(open_samples(source), IngestConfig(), options(out, max_reject_rate=1.0))
    assert manifest is not None
    assert manifest.totals["rows_written"] == 2
    assert manifest.totals["rejects"] == Counter(wrong.values())
    assert [each["reason"] for each in read_rejects(out)] == list(wrong.values())


def test_credentials_that_are_refused_stop_the_run_and_the_rerun_completes_it(
    bucket: str, server: Server, tmp_path: Path, options: Options
) -> None:
    server.files.put_file(str(PHOTO), f"{bucket}/a.jpg")
    source, out = rows(tmp_path, *[f"{bucket}/a.jpg"] * 40), tmp_path / "out"
    server.deny()
    try:
        with pytest.raises(InputError, match=r"rows\.jsonl, line 1: s3://.*the store could not be asked") as caught:
            ingest(open_samples(source), IngestConfig(), options(out))
    finally:
        server.allow()
    assert caught.value.hint == CHECK_ACCESS
    manifest = ingest(open_samples(source), IngestConfig(), options(out))
    assert manifest is not None
    assert (manifest.totals["rows_written"], manifest.totals["rows_rejected"]) == (40, 0)


def test_a_server_that_is_down_stops_the_run(
    bucket: str, server: Server, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    source, out = rows(tmp_path, f"{bucket}/a.jpg"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InputError, match="the store could not be asked"):
            ingest(open_samples(source), IngestConfig(), options(out))
    s3fs.S3FileSystem.clear_instance_cache()
    server.files.put_file(str(PHOTO), f"{bucket}/a.jpg")
    manifest = ingest(open_samples(source), IngestConfig(), options(out))
    assert manifest is not None
    assert manifest.totals["rows_written"] == 1
