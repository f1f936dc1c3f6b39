"""Well-known datasets by name: read with nothing else said, every row written or rejected, values as they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.interleave import Mix, draw_order
from vlm_prep.ingest.presets.preset import presets
from vlm_prep.ingest.source import open_samples

LOOKALIKES = {
    "rdr": ("rdr", 8, 0),
    "cord-v2": ("cord-v2", 9, 0),
    "medpix": ("medpix", 8, 0),
    "shopify": ("shopify", 8, 0),
    "unimm-chat": ("unimm-chat", 7, 0),
    "tulu3": ("tulu3", 44, 1),
    "tulu3-magicoder": ("", 76, 3),
    "cv17": ("cv17", 5, 0),
    "asr": ("ami", 5, 2),
    "llava-instruct": ("llava-next", 9, 0),
    "llava-onevision-data": ("llava-next", 9, 0),
    "cambrian": ("llava-next", 9, 0),
}


def read(source: str, **options: Any) -> list[Any]:
    found = open_samples(source, **options)
    return list(found.read(0, len(found)))


def said(sample: Sample) -> list[Any]:
    return [
        (message["role"], [part.get("text", "<" + part["type"] + ">") for part in message["content"]])
        for message in sample.messages
    ]


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_are_ingested_whole(name: str, lookalikes: Path, options: Any, tmp_path: Path) -> None:
    folder, rows, rejected = LOOKALIKES[name]
    samples = open_samples(f"preset:{name}={lookalikes / folder}")
    manifest = ingest(samples, IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0))
    assert manifest
    totals = manifest.totals
    assert (totals["rows_in"], totals["rows_rejected"]) == (rows, rejected)
    assert totals["rows_in"] == totals["rows_written"] + totals["rows_rejected"]


def test_a_mix_of_shares_counts_its_rows_by_dataset(lookalikes: Path) -> None:
    rows = read(f"preset:tulu3-magicoder={lookalikes}")
    counts = {name: sum(row.sample_id.startswith(name) for row in rows) for name in ("tulu3", "magicoder")}
    assert counts["tulu3"] >= 44 and counts["magicoder"] >= 13
    assert len({row.sample_id for row in rows}) == len(rows)
    assert [row.reason for row in rows if isinstance(row, Rejected)] == ["not_wanted"] * 3


PICTURE = {"bytes": b"\x89PNG\r\n\x1a\n-a", "path": "a.png"}
CHAT = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]
ASKED = [("user", ["<image>", "\nWhat?"]), ("assistant", ["A cup."])]
PAIRS = [{"user": "What?", "assistant": "A cup.", "source": "s"}]
BLOCKS = [
    {"category_type": "table", "html": "<table></table>", "order": 2},
    {"category_type": "title", "text": "Title", "order": 1},
    {"category_type": "abandon", "order": None},
]
LAYOUTS: dict[str, tuple[str, Any, Any]] = {
    "m4-instruct": (
        "json",
        {
            "image": ["a/1.png", "a/2.png"],
            "conversations": [{"from": "human", "value": "<image><image>Which?"}, CHAT[1]],
        },
        [("user", ["<image>", "<image>", "Which?"]), ("assistant", ["A cup."])],
    ),
    "sharegpt4v": ("json", {"id": "1", "image": "coco/a.jpg", "model": "m", "conversations": CHAT}, ASKED),
    "llava-video-178k": (
        "json",
        {"id": "1", "video": "a/b.mp4", "data_source": "s", "conversations": CHAT},
        [("user", ["<video>", "\nWhat?"]), ("assistant", ["A cup."])],
    ),
    "finevision": ("parquet", {"images": [PICTURE], "texts": PAIRS, "source": "s", "relevance_min": 1}, None),
    "the-cauldron": ("parquet", {"images": [PICTURE], "texts": PAIRS}, None),
    "docmatix": ("parquet", {"images": [PICTURE], "texts": PAIRS}, None),
    "cambrian": ("jsonl", {"image": "a.jpg", "conversations": CHAT, "source": "s"}, ASKED),
    "omnidocbench": (
        "json",
        {"layout_dets": BLOCKS, "page_info": {"image_path": "p.png", "page_no": 1}, "extra": {}},
        [
            ("user", ["<image>", "Convert this page to text, in reading order."]),
            ("assistant", ["Title\n\n<table></table>"]),
        ],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_in_the_layout_of_the_field(name: str, tmp_path: Path) -> None:
    kind, row, expected = LAYOUTS[name]
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        (tmp_path / "images").mkdir()
        path = tmp_path / "images" / "train-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist([row]), path)
        if name == "docmatix":
            config = "---\nconfigs:\n- config_name: images\n  data_files: images/train-*\n---\n"
            (tmp_path / "README.md").write_text(config)
            path = tmp_path
    else:
        path.write_text(json.dumps([row] if kind == "json" else row))
    (sample,) = read(f"preset:{name}={path}")
    assert isinstance(sample, Sample), sample
    assert said(sample) == (expected or [("user", ["<image>", "What?"]), ("assistant", ["A cup."])])


def test_a_meta_file_takes_presets_and_says_more(tmp_path: Path, lookalikes: Path) -> None:
    entry = {
        "preset": "rdr",
        "file_name": str(lookalikes / "rdr"),
        "split": "train[2:5]",
        "sample_ratio": 2,
        "limit": 5,
    }
    (tmp_path / "meta.json").write_text(json.dumps({"a": entry}))
    rows = read(str(tmp_path / "meta.json"))
    assert [row.sample_id for row in rows] == ["a/2", "a/3", "a/4", "a/2#1", "a/3#1"]


def test_an_unknown_preset_and_one_without_a_path_say_what_to_write() -> None:
    with pytest.raises(InputError, match=r"Did you mean 'rdr'"):
        open_samples("preset:rdrr=x")
    with pytest.raises(InputError, match=r"preset:sharegpt4v=PATH"):
        open_samples("preset:sharegpt4v")
    assert len(presets()) >= 19 and all(each.about and each.expects for each in presets().values())


@pytest.mark.parametrize(
    "split", ["train[:3]", "train[50%:]", "validation+test[:2]", "test[2:4]+train[:1]", "train[-2:]"]
)
def test_splits_are_those_of_datasets(split: str, lookalikes: Path) -> None:
    import datasets

    expected = datasets.load_dataset(str(lookalikes / "cord-v2"), split=split)["ground_truth"]
    turns = ["user=<image>", "assistant={ground_truth}"]
    rows = read(str(lookalikes / "cord-v2"), split=split, turns=turns)
    assert [row.messages[1]["content"][0]["text"] for row in rows] == list(expected)


@pytest.mark.parametrize("split", ["trian", "train[:x]", "train+nothing"])
def test_a_split_that_is_not_there_stops_before_the_run(split: str, lookalikes: Path) -> None:
    with pytest.raises(InputError, match="split"):
        open_samples(lookalikes / "cord-v2", split=split)


@pytest.mark.parametrize("stop", ["all_exhausted", "first_exhausted"])
@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("lengths", [(3, 4), (1, 1), (700, 30, 1200), (5, 900, 2)])
def test_a_mix_is_drawn_as_datasets_draws_it(lengths: tuple[int, ...], seed: int, stop: Any) -> None:
    import datasets

    sets = [datasets.Dataset.from_dict({"s": [number] * rows}) for number, rows in enumerate(lengths)]
    shares = tuple((number + 1) / sum(range(1, len(lengths) + 1)) for number in range(len(lengths)))
    expected = datasets.interleave_datasets(sets, probabilities=list(shares), seed=seed, stopping_strategy=stop)["s"]
    assert np.array_equal(draw_order(lengths, Mix(shares=shares, seed=seed, stop=stop)), np.array(expected))


def test_a_mix_by_flags_over_a_meta_file_is_the_same_in_pieces(tmp_path: Path) -> None:
    for name, rows in (("a", 30), ("b", 7)):
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": name}]
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"messages": turns}) + "\n" + (json.dumps({"messages": turns}) + "\n") * (rows - 1)
        )
    meta = {name: {"file_name": f"{name}.jsonl"} for name in ("a", "b")}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    samples = open_samples(tmp_path / "meta.json", mix={"a": 3, "b": 1}, mix_stop="first_exhausted", mix_seed=1)
    whole = [row.sample_id for row in samples.read(0, len(samples))]
    pieces = [
        row.sample_id
        for start in range(0, len(samples), 5)
        for row in samples.read(start, min(start + 5, len(samples)))
    ]
    assert pieces == whole and samples.numbers(whole) == {name: number for number, name in enumerate(whole)}
    assert whole.count("b/6") + whole.count("a/29") >= 1
    with pytest.raises(InputError, match="Did you mean 'a'"):
        open_samples(tmp_path / "meta.json", mix={"aa": 1})


@pytest.mark.parametrize("source", ["preset:tulu3-magicoder=", "mock:rows=70,images=2,size=16-32,words=3-9"])
def test_a_store_does_not_depend_on_the_number_of_workers(
    source: str, lookalikes: Path, options: Any, tree: Any, tmp_path: Path
) -> None:
    address = source + str(lookalikes) if source.endswith("=") else source
    for workers in (1, 2):
        how = options(tmp_path / str(workers), workers=workers, max_reject_rate=1.0)
        ingest(open_samples(address), IngestConfig(), how)
    one, two = ({name: each for name, each in tree(tmp_path / str(n)).items() if "." in name} for n in (1, 2))
    same = [name for name in one if name.endswith((".arrow", ".parquet"))]
    assert same and all(one[name] == two[name] for name in same)


@pytest.mark.parametrize(
    "how",
    [
        {"turns": ["user=<audio>Write it down.", "assistant={transcription}"]},
        {"mapping": {"turns": [{"user": ["audio", "Write it down."]}, {"assistant": "{transcription}"}]}},
        {"format": "asr", "user_prompt": "Write it down."},
    ],
)
def test_what_the_user_says_of_the_rows_takes_the_place_of_what_a_preset_says(
    how: dict[str, Any], lookalikes: Path, tmp_path: Path
) -> None:
    by_flags = read(f"preset:cv17={lookalikes / 'cv17'}", **how)
    (tmp_path / "meta.json").write_text(
        json.dumps({"cv17": {"preset": "cv17", "file_name": str(lookalikes / "cv17"), **how}})
    )
    for rows in (by_flags, read(str(tmp_path / "meta.json"))):
        assert [{part.get("text") for part in row.messages[0]["content"]} for row in rows] == [
            {"Write it down.", None}
        ] * 5


def test_columns_beside_a_preset_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"clip": "a.wav", "audio": "b.wav", "transcription": "x", "sentence": "y"}))
    (row,) = read(f"preset:cv17={path}", columns={"audio": "clip"})
    assert [Path(each.uris[0]).name for each in row.media] == ["a.wav"]
    with pytest.raises(InputError, match=r"columns\.text is not read beside a mapping"):
        read(f"preset:cv17={path}", columns={"text": "sentence"})
    mapping = {"audios": "audio", "turns": [{"user": ["audio"]}, {"assistant": "{sentence}"}]}
    with pytest.raises(InputError, match="both say where audios are"):
        read(str(path), mapping=mapping, columns={"audio": "clip"})


def test_a_preset_of_a_path_that_is_not_there_says_only_that(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(f"preset:rdr={tmp_path / 'gone'}")
    assert caught.value.message == f"dataset 'rdr': no data file '{tmp_path / 'gone'}'"


def test_a_configuration_of_the_hub_is_not_one_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"images": [PICTURE], "texts": PAIRS}]), path)
    assert len(read(f"preset:docmatix={path}")) == 1
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"preset": "docmatix", "file_name": "a.parquet"}}))
    assert len(read(str(tmp_path / "meta.json"))) == 1


@pytest.mark.parametrize("supervisions", [[], [{"id": "s"}], [{"id": "s", "text": " "}]])
def test_a_cut_without_words_is_not_trained_on_silence(supervisions: Any, tmp_path: Path) -> None:
    source = {"type": "file", "channels": [0], "source": "a.wav"}
    cut = {
        "id": "1",
        "start": 1.0,
        "duration": 1.5,
        "channel": 0,
        "type": "MonoCut",
        "recording": {"sources": [source]},
    }
    path = tmp_path / "cuts.jsonl"
    rows = [{**cut, "supervisions": each} for each in ([{"text": "ONE"}], supervisions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, row = read(f"preset:lhotse={path}")
    assert isinstance(row, Rejected) and row.reason in ("missing_column", "not_wanted")
