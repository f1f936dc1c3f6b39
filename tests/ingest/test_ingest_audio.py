"""`ingest` on speech: what the store holds, its accounts, and that neither workers nor the command change it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_prep.core.errors import Reject, RejectRateError
from vlm_prep.core.records import MediaHeader, Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.core.stored_media import store_media
from vlm_prep.engine.tasks import Task
from vlm_prep.ingest.ingest_run import IngestJob, ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.decode import load_media
from vlm_prep.media.probe import probe
from vlm_prep.report import statistics as stats
from vlm_prep.shards.layout import read_rejects


def samples_of(store: Path) -> list[Sample]:
    stored = open_samples(store)
    found = list(stored.read(0, len(stored)))
    assert all(isinstance(each, Sample) for each in found)
    return found  # type: ignore[return-value]


def seconds_of(header: MediaHeader | None) -> float:
    assert header is not None and header.samples is not None and header.sampling_rate is not None
    return header.samples / header.sampling_rate


def test_an_ingested_store_keeps_the_headers_of_audio(kit: Path, tmp_path: Path, options: Callable[..., Any]) -> None:
    source = kit / "data" / "llamafactory" / "mllm_video_audio_demo.json"
    manifest = ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))
    assert manifest
    assert manifest.totals["rows_written"] == 3
    assert (manifest.totals["videos"], manifest.totals["audios"]) == (3, 3)
    for sample in samples_of(tmp_path / "out"):
        video, audio = sample.media
        assert (video.kind, audio.kind) == ("video", "audio")
        assert audio == probe(audio)[0]
        assert audio.header is not None and (audio.header.samples, audio.header.sampling_rate) == (220500, 44100)


def test_the_accounts_of_speech_name_what_was_left_out(kit: Path, tmp_path: Path, options: Callable[..., Any]) -> None:
    rows = [json.loads(line) for line in (kit / "data" / "audio" / "transcripts.jsonl").read_text().splitlines()]
    rows[3]["text"] = " "
    rows[5]["audio"] = "audio/none.wav"
    (tmp_path / "cut.wav").write_bytes((kit / "data" / rows[6]["audio"]).read_bytes()[:-2000])
    rows[6]["audio"] = str(tmp_path / "cut.wav")
    (tmp_path / "speech.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = open_samples(tmp_path / "speech.jsonl", media_dir=kit / "data", max_duration=10.0)
    with pytest.raises(RejectRateError):
        ingest(samples, IngestConfig(), options(tmp_path / "out"))
    found = stats.collect(tmp_path / "out")
    totals = found["totals"]
    assert totals["rows_in"] == 72 == totals["rows_written"] + totals["rows_rejected"]
    long = totals["rejects"].pop("audio_too_long")
    assert totals["rejects"] == {"empty_transcript": 1, "missing_file": 1, "unreadable_audio": 1}
    assert totals["audios"] == totals["rows_written"] == 72 - 3 - long and long > 0
    headers = [media.header for sample in samples_of(tmp_path / "out") for media in sample.media]
    seconds = sum(seconds_of(header) for header in headers)
    assert totals["audio_seconds"] == pytest.approx(seconds, abs=0.05)
    assert totals["datasets"]["speech"]["audio_seconds"] == totals["audio_seconds"]
    assert f"{totals['audios']} files, {seconds:.1f} s" in stats.render(found)
    lines = {row["reason"]: row["line"] for row in read_rejects(tmp_path / "out") if row["reason"] != "audio_too_long"}
    assert lines == {"empty_transcript": 4, "missing_file": 6, "unreadable_audio": 7}


def test_the_heartbeat_tells_each_row_while_a_task_runs(kit: Path, tmp_path: Path) -> None:
    job = IngestJob(open_samples(kit / "data" / "audio_dataset", min_duration=3.0), IngestConfig())
    told: list[int] = []
    job.run(Task(index=0, start=0, stop=60), tmp_path, told.append)
    assert [row for row in told if row >= 0] == list(range(60))


def test_workers_and_a_second_run_change_nothing(
    kit: Path, tmp_path: Path, options: Callable[..., Any], tree: Callable[[Path], dict[str, str]]
) -> None:
    for workers in (1, 2):
        samples = open_samples(kit / "data" / "audio_dataset", sample_ratio=5, min_duration=2.0)
        out = options(tmp_path / str(workers), workers=workers, max_reject_rate=1.0)
        ingest(samples, IngestConfig(), out)
    first = tree(tmp_path / "1")
    assert first == tree(tmp_path / "2")
    samples = open_samples(kit / "data" / "audio_dataset", sample_ratio=5, min_duration=2.0)
    ingest(samples, IngestConfig(), options(tmp_path / "1", max_reject_rate=1.0))
    assert tree(tmp_path / "1") == first


def test_audio_in_a_cell_is_refused_when_its_file_changed(
    kit: Path, tmp_path: Path, options: Callable[..., Any]
) -> None:
    shards = kit / "data" / "audio_dataset" / "data"
    path = tmp_path / "speech.parquet"
    shutil.copy(shards / "test-00000-of-00001.parquet", path)
    ingest(open_samples(path), IngestConfig(), options(tmp_path / "out"))
    (audio,) = samples_of(tmp_path / "out")[2].media
    header = audio.header
    assert header is not None and header.samples is not None and header.sampling_rate is not None
    struct = store_media(audio)
    assert np.asarray(load_media(struct, rate=header.sampling_rate)).shape == (header.samples,)
    shutil.copy(shards / "train-00000-of-00001.parquet", path)
    with pytest.raises(Reject) as caught:
        load_media(struct, rate=16000)
    assert caught.value.reason.value == "media_changed"


def test_the_command_reads_a_folder_of_speech(kit: Path, tmp_path: Path, call: Callable[..., Any]) -> None:
    folder = kit / "data" / "audio_dataset"
    flags = ("--split", "test", "--format", "asr", "--user-prompt", "Transcribe.", "--system-prompt", " ")
    plan = call("ingest", folder, *flags, "--dry-run", "--json")
    assert plan.returncode == 0, plan.stderr
    described = json.loads(plan.stdout)["datasets"][0]
    assert (described["split"], described["user_prompt"], described["rows"]) == ("test", "Transcribe.", 12)
    assert "system_prompt" not in described
    done = call("ingest", folder, *flags, "--out", tmp_path / "out", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)["totals"]
    assert (totals["rows_written"], totals["audios"]) == (12, 12) and totals["audio_seconds"] > 0
    asked = samples_of(tmp_path / "out")[0].messages[0]
    assert asked == {"role": "user", "content": [{"type": "text", "text": "Transcribe."}, {"type": "audio"}]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split", "dev"), "has no split 'dev'"),
        (("--format", "asr", "--column", "text=words"), "no column 'words' (columns.text)"),
    ],
)
def test_the_command_says_what_is_wrong(
    kit: Path, tmp_path: Path, call: Callable[..., Any], flags: tuple[str, ...], message: str
) -> None:
    done = call("ingest", kit / "data" / "audio_dataset", *flags, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
