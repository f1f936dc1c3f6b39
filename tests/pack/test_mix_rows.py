"""A mix file over finished stores: filters, amounts, duplicates, a held-out side; packs, streams and pages take it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageEnhance, ImageOps
from typer.testing import CliRunner

from vlm_prep.builtin import builtin_data
from vlm_prep.cli.main import app
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.sides import own_name
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.mix_rows import open_mix
from vlm_prep.pack.pack_run import pack
from vlm_prep.report.found_rows import all_rows
from vlm_prep.report.view.viewing import view
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
PHOTOS = builtin_data().parent / "photos"
Options = Callable[..., RunOptions]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores `a` of 40 rows of text with scores, `b` of 20 rows, each second with a picture; `c` of other labels."""
    folder = tmp_path_factory.mktemp("stores")
    for name in ("coffee.jpg", "rocket.jpg"):
        shutil.copy(PHOTOS / name, folder / name)
    with Image.open(PHOTOS / "coffee.jpg") as opened:
        picture = ImageOps.exif_transpose(opened)
        ImageEnhance.Brightness(picture.convert("RGB")).enhance(1.05).save(folder / "brighter.jpg", quality=70)
    for store, count in (("a", 40), ("b", 20)):
        lines = []
        for number in range(count):
            photo = ("coffee.jpg", "brighter.jpg", "rocket.jpg")[number % 3] if store == "b" and number % 2 else None
            said = (
                f"{'<image>' if photo else ''}What is {number}?",
                f"Answer {number % 16 if store == 'a' else number}.",
            )
            turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
            if store == "a":
                turns[0]["content"] = f"What is {number % 16}?"  # rows 16, 17, ... repeat rows 0, 1, ...
            lines.append(json.dumps({"messages": turns, "images": [photo] if photo else [], "score": number / 2}))
        (folder / f"{store}.jsonl").write_text("\n".join(lines))
    for out, config in (("a", TokenizeConfig()), ("b", TokenizeConfig()), ("c", TokenizeConfig(fps=1.0))):
        samples = open_samples(folder / f"{out if out != 'c' else 'b'}.jsonl", keep_columns=["score"])
        run = RunOptions(out=folder / out, workers=0, progress=False, say=lambda line: None)
        tokenize(samples, PROCESSOR, config, run)
    return folder


def write(folder: Path, **said: Any) -> Path:
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump(said))
    return path


def ids(path: Path) -> list[str]:
    return [row["sample_id"] for row in open_mix(path).rows()]


def test_all_rows_of_all_stores_where_nothing_is_said(stores: Path) -> None:
    path = write(stores, stores=[{"store": "a"}, {"store": "b"}])
    assert ids(path) == [f"{name}/{n}" for name, count in (("a", 40), ("b", 20)) for n in range(count)]


@pytest.mark.parametrize(
    ("amount", "count"), [({"count": 7}, 7), ({"ratio": 0.25}, 10), ({"ratio": 2.5}, 100), ({"count": 90}, 90)]
)
def test_amounts(stores: Path, amount: dict[str, Any], count: int) -> None:
    found = Counter(ids(write(stores, stores=[{"store": "a", **amount}])))
    assert found.total() == count and max(found.values()) - min(found.values()) <= 1
    assert len(found) == min(count, 40)


def test_weights_are_shares_of_the_rows(stores: Path) -> None:
    path = write(stores, stores=[{"store": "a", "weight": 3}, {"store": "b", "weight": 1}], rows=80)
    assert Counter(name[0] for name in ids(path)) == {"a": 60, "b": 20}
    path = write(stores, stores=[{"store": "a", "weight": 1}, {"store": "b", "weight": 2}])
    assert Counter(name[0] for name in ids(path)) == {"a": 20, "b": 40}


def test_rows_that_another_store_rejected_are_left_out(stores: Path) -> None:
    run = RunOptions(out=stores / "short", workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)
    samples = open_samples(stores / "b.jsonl", keep_columns=["score"])
    tokenize(samples, PROCESSOR, TokenizeConfig(max_length=100), run)
    plain = open_mix(write(stores, stores=[{"store": "b"}])).manifest.fingerprint
    path = write(stores, stores=[{"store": "b", "not_rejected_in": ["short"]}])
    assert ids(path) == [f"b/{n}" for n in range(0, 20, 2)]  # each second has a picture of more than 100 tokens
    assert open_mix(path).manifest.fingerprint != plain
    with pytest.raises(InputError, match="list of stores"):
        open_mix(write(stores, stores=[{"store": "b", "not_rejected_in": "short"}]))


def test_a_draw_depends_on_the_seed_alone(stores: Path) -> None:
    first, again, other = (ids(write(stores, stores=[{"store": "a", "count": 10}], seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("score >= 9 and score < 9.6", ["b/18", "b/19"]),
        ('kind == "image" and score < 2', ["b/1", "b/3"]),
        ("images == 0 and not tokens < 5 and score < 1.1", ["b/0", "b/2"]),
        ('sample_id in ("b/4", "b/7", "x")', ["b/4", "b/7"]),
        ("0 < score <= 1 and trained > 2 and dataset == 'b' and videos == 0 and audios == 0", ["b/1", "b/2"]),
        ("pixels > 1000 and score > 9", ["b/19"]),
    ],
)
def test_filters(stores: Path, where: str, expected: list[str]) -> None:
    assert ids(write(stores, stores=[{"store": "b", "where": where}])) == expected


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("scores > 1", "Did you mean 'score'"),
        ("tokens >", "is no expression"),
        ("__import__('os').system('id')", "is no comparison"),
        ("tokens > __import__('os')", "no value to compare with"),
        ("tokens > 'many'", "tokens > 'many'"),
        ("kind in 'image'", "expected a list"),
    ],
)
def test_what_is_no_filter_is_said(stores: Path, where: str, said: str) -> None:
    with pytest.raises(InputError) as told:
        open_mix(write(stores, stores=[{"store": "b", "where": where}]))
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"stores": []}, "names no stores"),
        ({"stores": [{"store": "a", "wieght": 1}]}, "Did you mean 'weight'"),
        ({"stores": [{"store": "a", "weight": 1, "count": 2}]}, "exclude each other"),
        ({"stores": [{"store": "a"}], "split": {"train": 0.5}, "take": "train"}, "expected 1"),
        ({"stores": [{"store": "a"}], "split": {"train": 1.0}, "take": "test"}, "expected one of train"),
        ({"stores": [{"store": "a", "where": "tokens > 9999"}]}, "takes no rows"),
        ({"stores": [{"store": "a", "where": "tokens > 9999", "count": 3}]}, "is left"),
        ({"stores": [{"store": "a", "count": -1}]}, "above 0"),
    ],
)
def test_what_is_no_mix_is_said(stores: Path, said: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as told:
        open_mix(write(stores, **said))
    assert words in str(told.value)


def test_other_processors_do_not_mix(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="another processor"):
        open_mix(write(stores, stores=[{"store": "a"}, {"store": "c"}]))


def test_exact_duplicates_go_by_content(stores: Path) -> None:
    found = ids(write(stores, stores=[{"store": "a"}, {"store": "b"}], duplicates="drop"))
    assert found[:16] == [f"a/{number}" for number in range(16)]
    assert found[16:] == [name for name in found if name.startswith("b/")]
    # b's rows of text 0, 2, ... 14 say what a's do
    assert [name for name in found if name == "b/2"] == [] and "b/16" in found and "b/1" in found


def test_nearly_the_same_pictures_go(stores: Path) -> None:
    pytest.importorskip("imagehash")
    where = "images == 1"
    found = ids(write(stores, stores=[{"store": "b", "where": where}], similar_pictures=6))
    assert found == ["b/1", "b/5"]  # brighter.jpg is coffee.jpg, rocket.jpg is not


def test_a_held_out_side_and_its_complement_are_all_rows_once(stores: Path) -> None:
    split = {"train": 0.7, "validation": 0.3}
    sides = [ids(write(stores, stores=[{"store": "a"}, {"store": "b"}], split=split, take=side)) for side in split]
    assert not {*sides[0]} & {*sides[1]} and len(sides[0]) + len(sides[1]) == 60
    assert 30 < len(sides[0]) < 54
    alone = ids(write(stores, stores=[{"store": "b"}], split=split, take="validation"))
    assert alone == [name for name in sides[1] if name.startswith("b/")]  # whatever stands beside it


def test_repeats_and_documents_of_a_row_are_on_its_side() -> None:
    assert {own_name(name) for name in ("x/3", "x/3#2", "x/3~1", "x/3#2~1")} == {"x/3"}
    assert own_name("odd~name#1/3") == "odd~name#1/3"


def test_the_fingerprint_names_all_parts(stores: Path, tmp_path: Path) -> None:
    prints = set()
    for said in ({"count": 5}, {"count": 6}, {"where": "tokens > 1"}):
        prints.add(open_mix(write(stores, stores=[{"store": "a", **said}])).manifest.fingerprint)
    prints.add(open_mix(write(stores, stores=[{"store": "b", "count": 5}])).manifest.fingerprint)
    assert len(prints) == 4
    moved = Path(shutil.copytree(stores, tmp_path / "moved"))
    here = open_mix(write(stores, stores=[{"store": "a", "count": 5}])).manifest.fingerprint
    assert open_mix(write(moved, stores=[{"store": "a", "count": 5}])).manifest.fingerprint == here


@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_packs_of_a_mix_hold_its_rows(stores: Path, tmp_path: Path, options: Options, layout: str) -> None:
    path = write(stores, stores=[{"store": "b", "ratio": 1.5, "where": "score > 2"}, {"store": "a", "count": 9}])
    config = PackConfig(pack_length=1024, world_size=2, layout=layout)  # type: ignore[arg-type]
    manifest = pack(str(path), config, options(tmp_path / "packed"))
    assert manifest is not None
    expected = Counter(ids(path))
    assert Counter(each.row["sample_id"] for each in all_rows(Store(tmp_path / "packed"))) == expected
    assert manifest.totals["rows_in"] == expected.total()
    assert damaged_files(tmp_path / "packed", manifest) + wrong_accounts(tmp_path / "packed", manifest) == []
    assert [part["taken"] for part in manifest.extra["mix"]["parts"]] == [22, 9]
    assert len(ShardDataset(tmp_path / "packed")) > 1
    before = read_manifest(tmp_path / "packed").fingerprint
    write(stores, stores=[{"store": "a", "count": 9}])
    run = CliRunner().invoke(app, ["why", str(tmp_path / "packed")])
    assert run.exit_code == 1 and "source" in run.output
    pack(str(path), config, options(tmp_path / "other"))
    assert read_manifest(tmp_path / "other").fingerprint != before


def test_a_stream_of_a_mix_is_its_rows_in_a_seeds_order(stores: Path) -> None:
    path = write(stores, stores=[{"store": "b", "ratio": 2}, {"store": "a", "count": 5}])
    dataset = ShardDataset(path, seed=3)
    assert len(dataset) == 45
    names = [dataset[number]["sample_id"] for number in range(len(dataset))]
    assert Counter(names) == Counter(ids(path)) and names != ids(path)
    plain = ShardDataset(path, shuffle=False)
    row = open_mix(path).row(1)
    assert np.array_equal(plain[1]["input_ids"], row["input_ids"])
    write(stores, stores=[{"store": "b"}])
    assert ShardDataset(path).fingerprint != dataset.fingerprint


def test_the_page_and_the_command_take_a_mix(stores: Path) -> None:
    path = write(stores, stores=[{"store": "b", "count": 3, "where": "images == 1"}])
    assert "b/1" in view(path, rows=50, seed=0) or "b/3" in view(path, rows=50, seed=0)
    run = CliRunner().invoke(app, ["mix", str(path)])
    assert run.exit_code == 0 and "3 rows" in run.output
    told = json.loads(CliRunner().invoke(app, ["mix", str(path), "--json"]).output)
    assert told["parts"][0]["filtered"] == 10 and told["parts"][0]["taken"] == 3
