"""A source split by a stable hash: each row on one side, for good, and on the side that a mix puts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm_prep.core.errors import InputError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import Samples, how_read, open_samples
from vlm_prep.pack.mix_rows import open_mix
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.update_run import update

SPLIT = "hash:train=0.75,validation=0.25"
PROCESSOR = "builtin:qwen2.5-vl-mini"


def rows(path: Path, count: int) -> Path:
    turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}] for n in range(count)]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return path


def ids(samples: Samples) -> list[str]:
    return [sample.sample_id for sample in samples.read(0, len(samples))]


def test_the_sides_are_all_rows_and_stay_when_rows_are_added(tmp_path: Path) -> None:
    data = rows(tmp_path / "a.jsonl", 200)
    train, held = (ids(open_samples(data, split_by=SPLIT, take=side)) for side in ("train", "validation"))
    assert sorted(train + held) == sorted(ids(open_samples(data))) and 30 < len(held) < 70
    assert train == sorted(train, key=lambda name: int(name.partition("/")[2]))
    rows(data, 400)
    later = ids(open_samples(data, split_by=SPLIT, take="validation"))
    assert later[: len(held)] == held and len(later) > len(held)
    twice = ids(open_samples(data, split_by=SPLIT, take="validation", sample_ratio=2.0))
    assert {name.partition("#")[0] for name in twice} == set(later) and len(twice) == 2 * len(later)


def test_a_side_is_a_source_of_its_own(tmp_path: Path) -> None:
    data = rows(tmp_path / "a.jsonl", 40)
    sides = [open_samples(data, split_by=SPLIT, take=side) for side in ("train", "validation")]
    found = [open_samples(data), *sides]
    assert len({digest_json(samples.identity()) for samples in found}) == 3
    how = how_read(found[2])
    assert (how.split_by, how.take) == (SPLIT, "validation")  # so that `finish` and `retry` open it again
    assert found[2].numbers(ids(found[2])) == {name: place for place, name in enumerate(ids(found[2]))}


def test_a_store_of_a_side_is_kept_up_and_agrees_with_a_mix(tmp_path: Path, options: Callable[..., Any]) -> None:
    data = rows(tmp_path / "a.jsonl", 30)
    config = TokenizeConfig()
    tokenize(open_samples(data, split_by=SPLIT, take="train"), PROCESSOR, config, options(tmp_path / "train"))
    rows(data, 60)
    update(open_samples(data, split_by=SPLIT, take="train"), PROCESSOR, config, options(tmp_path / "train"))
    tokenize(open_samples(data), PROCESSOR, config, options(tmp_path / "all"))
    mix = {"stores": [{"store": "all"}], "split": {"train": 0.75, "validation": 0.25}, "take": "train"}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(mix))
    names = [row["sample_id"] for row in Store(tmp_path / "train").rows()]
    assert names == [row["sample_id"] for row in open_mix(tmp_path / "mix.yaml").rows()]


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"split_by": SPLIT}, "both or neither"),
        ({"split_by": SPLIT, "take": "test"}, "no such side"),
        ({"split_by": "hash:train=0.5,validation=0.4", "take": "train"}, "0.9 together"),
        ({"split_by": "random:train=1", "take": "train"}, "expected a rule"),
        ({"split_by": "hash:train=x", "take": "train"}, "expected a rule"),
    ],
)
def test_what_is_no_split_is_refused(tmp_path: Path, how: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        open_samples(rows(tmp_path / "a.jsonl", 3), **how)
