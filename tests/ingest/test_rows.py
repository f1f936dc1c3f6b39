"""RowSource gives exactly one Sample or Rejected for each pick, from any process."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vlm_prep
from vlm_prep.core.errors import InputError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest import RowSource, load_source

KIT = Path(vlm_prep.__file__).parents[2] / "shared" / "kit" / "data"
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def open_lines(folder: Path, *lines: str | bytes, **options: Any) -> RowSource:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return RowSource.open(load_source(path, **options)[0])


def read_all(source: RowSource) -> list[Sample | Rejected]:
    return list(source.read(0, len(source)))


def test_a_sample_knows_where_it_came_from(tmp_path: Path) -> None:
    (sample,) = read_all(open_lines(tmp_path, "", json.dumps(CHAT)))
    assert isinstance(sample, Sample)
    assert (sample.sample_id, sample.dataset, sample.source, sample.line) == (
        "rows/0",
        "rows",
        "rows.jsonl",
        2,
    )


def test_a_bad_row_is_rejected_and_the_others_are_read(tmp_path: Path) -> None:
    out = read_all(open_lines(tmp_path, json.dumps(CHAT), '{"messages": [}', "[1]", json.dumps(CHAT)))
    assert [type(each) for each in out] == [Sample, Rejected, Rejected, Sample]
    bad_json, bad_row = out[1:3]
    assert isinstance(bad_json, Rejected) and isinstance(bad_row, Rejected)
    assert (bad_json.reason, bad_json.line, bad_json.stage) == ("bad_json", 2, "ingest")
    assert "line 2, column" in bad_json.message
    assert (bad_row.reason, bad_row.sample_id) == ("bad_row", "rows/2")


@pytest.mark.parametrize("line", [b'{"a": "\xff"}', b'{"a": nope}', b'{"a": "\\ud800"}', b"{" * 5000, b"\0"])
def test_text_that_json_cannot_hold_is_bad_json(tmp_path: Path, line: bytes) -> None:
    _, rejected = read_all(open_lines(tmp_path, json.dumps(CHAT), line))
    assert isinstance(rejected, Rejected) and rejected.reason == "bad_json"


def test_the_line_of_a_fault_inside_an_indented_row_is_the_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{\n"messages":\noops\n},\n' + json.dumps(CHAT) + "]")
    rejected, sample = read_all(RowSource.open(load_source(path)[0]))
    assert isinstance(rejected, Rejected) and "line 4, column 1" in rejected.message
    assert isinstance(sample, Sample) and sample.line == 6


def test_copies_of_a_row_have_their_own_ids(tmp_path: Path) -> None:
    source = open_lines(tmp_path, *[json.dumps(CHAT)] * 10, sample_ratio=2.25)
    ids = [each.sample_id for each in read_all(source)]
    assert ids[:2] == ["rows/0", "rows/1"]
    assert ids[10:12] == ["rows/0#1", "rows/1#1"]
    assert ids[20:] == ["rows/1#2", "rows/0#2"]
    assert len(set(ids)) == len(ids) == 22


def test_a_limit_keeps_the_first_picks(tmp_path: Path) -> None:
    spec = open_lines(tmp_path, *[json.dumps(CHAT)] * 10, sample_ratio=0.5).spec
    assert RowSource.open(spec, limit=2).picks.tolist() == [1, 0]


def test_ranges_joined_are_the_whole(tmp_path: Path) -> None:
    source = open_lines(tmp_path, *[json.dumps(CHAT), "{"] * 10)
    joined = [each for start in range(0, 20, 3) for each in source.read(start, start + 3)]
    assert joined == read_all(source)


def test_the_order_of_picks_is_the_order_of_outputs(tmp_path: Path) -> None:
    source = open_lines(tmp_path, *[json.dumps(CHAT)] * 10, sample_ratio=0.5)
    assert [each.sample_id for each in read_all(source)] == [f"rows/{row}" for row in (1, 0, 4, 9, 6)]


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[]")
    assert read_all(RowSource.open(load_source(path, sample_ratio=0.5)[0])) == []


def test_a_pickled_source_reads_the_same_in_another_process(tmp_path: Path) -> None:
    source = open_lines(tmp_path, *[json.dumps(CHAT), "{"] * 5)
    assert read_all(pickle.loads(pickle.dumps(source))) == read_all(source)
    code = (
        "import pickle, sys; source = pickle.load(sys.stdin.buffer); "
        "pickle.dump(list(source.read(0, len(source))), sys.stdout.buffer)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
    assert pickle.loads(done.stdout) == read_all(source)


def test_a_file_that_vanished_stops_the_run(tmp_path: Path) -> None:
    source = open_lines(tmp_path, json.dumps(CHAT))
    source.spec.file.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_all(source)


def test_the_content_digest_is_the_files(tmp_path: Path) -> None:
    source = open_lines(tmp_path, json.dumps(CHAT))
    assert source.content_digest() == digest_file(source.spec.file)


def test_the_description_holds_the_resolved_settings_and_no_absolute_path(tmp_path: Path) -> None:
    described = open_lines(tmp_path, json.dumps(CHAT), sample_ratio=2).describe()
    assert str(tmp_path) not in json.dumps(described)
    assert described["format"] == "sharegpt" and described["columns"]["messages"] == "messages"
    assert (described["rows"], described["picks"]) == (1, 2)


def mutated(text: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(text))
    piece = rng.choice([b"", b"null", b"[", b'"', b"\xc3", b"{}", b"3", b'"<image>"', b"<video>", b'"data:x'])
    return text[:at] + piece + text[at + rng.randrange(6) :]


@pytest.mark.parametrize("seed", range(40))
def test_every_pick_has_one_output_whatever_the_rows_hold(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    row = CHAT | {"images": ["a.jpg"], "videos": [], "tools": "[]", "system": "x"}
    lines = [json.dumps(CHAT).encode()]
    lines += [mutated(mutated(json.dumps(row).encode(), rng), rng) for _ in range(100)]
    source = open_lines(tmp_path, *(line for line in lines if line.strip()), sample_ratio=1.5)
    out = read_all(source)
    assert [each.sample_id for each in out] == [source.sample_id(place) for place in range(len(source))]


@pytest.mark.parametrize(
    ("name", "samples", "rejected"),
    [
        ("llamafactory/mllm_demo.json", 6, 0),
        ("llamafactory/mllm_video_demo.json", 3, 0),
        ("llamafactory/mllm_audio_demo.json", 3, 0),
        ("llamafactory/mllm_video_audio_demo.json", 3, 0),
        ("llamafactory/glaive_toolcall_zh_demo.json", 300, 0),
        ("llamafactory/reason_tool_use_demo_50.jsonl", 50, 0),
        ("llamafactory/v1_multimodal_demo.jsonl", 24, 0),
        ("llamafactory/v1_sft_demo.jsonl", 500, 0),
        ("llamafactory/alpaca_en_demo.json", 999, 0),
        ("lmdb_store/samples.json", 9, 0),
    ],
)
def test_real_files_are_read_without_settings(name: str, samples: int, rejected: int) -> None:
    if not KIT.exists():
        pytest.skip(f"the test kit is not at {KIT}")
    out = read_all(RowSource.open(load_source(KIT / name)[0]))
    assert sum(isinstance(each, Sample) for each in out) == samples
    assert [each.reason for each in out if isinstance(each, Rejected)] == ["unsupported_media"] * rejected
