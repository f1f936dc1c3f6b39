"""Energon's field maps and metadatasets: read where they say which rows there are, else refused by what they say."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples

VQA = "sample_type: {__module__: megatron.energon, __class__: VQASample}\n"
CAPTIONS = "sample_type: {__module__: megatron.energon, __class__: CaptioningSample}\n"


def energon(folder: Path, dataset: str, *samples: dict[str, bytes], val: int = 0) -> Path:
    """A set with a tar for each of two splits; the last `val` samples are those of val."""
    cut = len(samples) - val
    for split, part in (("train", samples[:cut]), ("val", samples[cut:])):
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "shards" / f"{split}.tar", "w") as archive:
            for number, files in enumerate(part):
                for ending, data in files.items():
                    info = tarfile.TarInfo(f"{split}{number}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    (folder / ".nv-meta").mkdir()
    (folder / ".nv-meta" / "dataset.yaml").write_text(dataset)
    (folder / ".nv-meta" / "split.yaml").write_text(
        "split_parts: {train: [shards/train.tar], val: [shards/val.tar]}\nexclude: []\n"
    )
    return folder


def read(path: Path, **how: Any) -> list[Any]:
    samples = open_samples(path, **how)
    return list(samples.read(0, len(samples)))


def said(row: Any) -> list[str]:
    assert isinstance(row, Sample), row.message
    return ["".join(part.get("text", f"<{part['type']}>") for part in turn["content"]) for turn in row.messages]


def question(text: str, answers: Any) -> dict[str, bytes]:
    return {"jpg": b"j", "json": json.dumps({"qa": [{"q": text}], "a": answers}).encode(), "other.txt": b"not read"}


def test_questions_are_conversations_by_their_field_map(tmp_path: Path) -> None:
    dataset = VQA + "field_map: {image: jpg, context: 'json[qa][0][q]', answers: 'json[a]'}\n"
    rows = [question("What?", "A cup."), question("Who?", ["Ann."]), question("Why?", ["a", "b"])]
    first, second, third, last = read(energon(tmp_path, dataset, *rows, {"jpg": b"j", "json": b"{}"}))
    assert said(first) == ["<image>What?", "A cup."] and said(second) == ["<image>Who?", "Ann."]
    assert [media.uris[0] for media in first.media] == [f"{tmp_path}/shards/train.tar::train0.jpg"]
    # several answers are a draw of Energon's, which is not made here
    assert isinstance(third, Rejected) and isinstance(last, Rejected)
    assert "has no qa, which the field map asks for" in last.message


def test_what_is_asked_of_captions_the_user_says(tmp_path: Path) -> None:
    dataset = CAPTIONS + "field_map: {image: left.jpg, caption: txt}\n"
    folder = energon(tmp_path, dataset, {"left.jpg": b"l", "right.jpg": b"r", "txt": b"A cup."})
    with pytest.raises(InputError, match="'caption'"):
        read(folder)
    (row,) = read(folder, turns=["user=<image>Describe it.", "assistant={caption}"])
    assert said(row) == ["<image>Describe it.", "A cup."]
    assert [media.uris[0] for media in row.media] == [f"{tmp_path}/shards/train.tar::train0.left.jpg"]
    # another field map is another source, though the tars are the same
    (folder / ".nv-meta" / "dataset.yaml").write_text(CAPTIONS + "field_map: {image: right.jpg, caption: txt}\n")
    (row,) = read(folder, turns=["user=<image>Describe it.", "assistant={caption}"])
    assert [media.uris[0] for media in row.media] == [f"{tmp_path}/shards/train.tar::train0.right.jpg"]


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("field_map: [a]", "not attributes"),
        ("field_map: {image: 'json[a'}", "image is"),
        ("field_map: {image: 3}", "image is 3"),
        ("field_map: {a: b: c}", "YAML"),
    ],
)
def test_a_field_map_that_is_none_is_refused(written: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"dataset\.yaml.*{what}"):
        read(energon(tmp_path, VQA + written + "\n", {"jpg": b"j"}))


@pytest.fixture
def blend(tmp_path: Path) -> Path:
    """Two sets beside a metadataset."""
    dataset = VQA + "field_map: {image: jpg, context: 'json[qa][0][q]', answers: 'json[a]'}\n"
    for name in ("coco", "coyo"):
        energon(tmp_path / name, dataset, *(question(f"{name}{row}", "x") for row in range(6)), val=2)
    return tmp_path / "blend.yaml"


def metadataset(train: str) -> str:
    return f"__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train: {train}\n"


def asked(rows: list[Any]) -> list[str]:
    return [said(row)[0].removeprefix("<image>") for row in rows]


def test_weights_of_a_blend_are_shares_of_a_mix(blend: Path) -> None:
    blend.write_text(metadataset("{blend: [{path: ./coco, weight: 9}, {path: coyo, weight: 1, subflavors: {a: b}}]}"))
    rows = asked(read(blend))
    assert rows == asked(read(blend)) and {f"{name}{row}" for name in ("coco", "coyo") for row in range(4)} == {*rows}
    assert Counter(row[:4] for row in rows)["coco"] > 4 * Counter(row[:4] for row in rows)["coyo"]
    assert len(asked(read(blend, mix_stop="first_exhausted"))) < len(rows)


def test_other_splits_follow_each_other_and_repetitions_are_whole(blend: Path) -> None:
    sets = "[{path: coco, repetitions: 2}, {path: coyo}, {path: coyo, split_part: val}]"
    blend.write_text(metadataset(f"{{blend_epochized: {sets}}}") + "  val: {blend: [{path: coco}, {path: coyo}]}\n")
    counted = Counter(asked(read(blend)))
    assert counted == Counter([f"coco{row}" for row in range(4)] * 2 + [f"coyo{row}" for row in range(6)])
    assert asked(read(blend, split="val")) == ["coco4", "coco5", "coyo4", "coyo5"]
    blend.write_text(metadataset("{path: coyo}"))
    assert asked(read(blend)) == ["coyo0", "coyo1", "coyo2", "coyo3"]


@pytest.mark.parametrize(
    ("train", "what"),
    [
        ("{join: [{path: coco}], joiner: {__class__: A}}", "says join, joiner"),
        ("{blend: [{weight: 1, join: [{path: coco}]}]}", "blends in blends and joins"),
        ("{blend: [{path: other.yaml}]}", "a metadataset in a metadataset"),
        ("{blend: [{path: coco, weight: 0}]}", "weight of coco is 0"),
        ("{blend_epochized: [{path: coco, repetitions: 1.5}]}", "not a whole number"),
        ("{blend: [{path: coco, subset: {range: ['0%', '10%']}}]}", "subset of coco"),
        ("{blend: [{path: coco}], split_config: a.yaml}", "split_config beside blend"),
        ("{path: coco, dataset_config: a.yaml}", "dataset_config of coco"),
        ("{blend: []}", "not a list of sets"),
        ("coco", "not a path or a blend"),
    ],
)
def test_what_a_metadataset_says_and_is_not_read_stops(train: str, what: str, blend: Path) -> None:
    blend.write_text(metadataset(train))
    with pytest.raises(InputError, match=what):
        read(blend)


def test_a_metadataset_without_the_split_that_is_asked_for_stops(blend: Path) -> None:
    blend.write_text(metadataset("{path: coco}"))
    with pytest.raises(InputError, match="has no split 'dev'"):
        read(blend, split="dev")
    blend.write_text("__class__: MetadatasetV2\nsplits: {}\n")
    with pytest.raises(InputError, match="without splits"):
        read(blend)


def test_a_split_without_tars_says_so(tmp_path: Path) -> None:
    folder = energon(tmp_path, VQA + "field_map: {image: jpg}\n", {"jpg": b"j"})
    (folder / ".nv-meta" / "split.yaml").write_text("split_parts: {train: [shards/train.tar], val: []}\n")
    with pytest.raises(InputError, match="the split 'val' has no tars"):
        read(folder, split="val")
