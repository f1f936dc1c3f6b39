"""A user's function behind tokenizing: what it gives is written, judged, compared, and users alone name it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import ExactnessError, InputError, StoreError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.user_code import load_hook
from vlm_prep.ingest.source import open_samples
from vlm_prep.report.found_rows import notes_of
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import prepare, tokenize
from vlm_prep.tokenize.verify.store import check_store

PROCESSOR = "builtin:qwen2.5-vl-mini"
CODE = """
import numpy as np

CALLS = []

def ends_untrained(row):
    "Only rows with a picture: the last trained token is not trained."
    if len(row["image_grid_thw"]):
        row["labels"][np.flatnonzero(row["labels"] != -100)[-1]] = -100
    return row

def begins(row):
    "Three tokens of text before all others, as lists."
    return {**row, "input_ids": [7, 8, 9, *row["input_ids"]], "labels": [-100] * 3 + row["labels"].tolist()}

def none(row):
    return None

def raises(row):
    raise ValueError("no good")

def drops_a_media_token(row):
    keep = np.ones(len(row["input_ids"]), bool)
    keep[np.argmax(np.bincount(row["input_ids"])[row["input_ids"]])] = False
    return {**row, "input_ids": row["input_ids"][keep], "labels": row["labels"][keep]}

def drops_the_start_of_a_picture(row):
    place = np.flatnonzero(row["input_ids"] == np.bincount(row["input_ids"]).argmax())[0] - 1
    return {**row, "input_ids": np.delete(row["input_ids"], place), "labels": np.delete(row["labels"], place)}

def other_grid(row):
    row["image_grid_thw"] = row["image_grid_thw"] * 2
    return row

def shorter_labels(row):
    return {**row, "labels": row["labels"][1:]}

def own_labels(row):
    row["labels"][row["labels"] != -100] = 5
    return row

def no_such_id(row):
    row["input_ids"][0] = 10_000_000
    return row

def messages(row):
    row["messages"].pop()
    return row

def fewer_keys(row):
    return {"input_ids": row["input_ids"], "labels": row["labels"]}

def all_untrained(row):
    return {**row, "labels": np.full_like(row["labels"], -100)}

def otherwise_each_time(row):
    CALLS.append(1)
    return {**row, "input_ids": [len(CALLS), *row["input_ids"]], "labels": [-100, *row["labels"]]}
"""


@pytest.fixture(autouse=True)
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "token_hooks_of_a_test.py"
    file.write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("token_hooks_of_a_test", None)
    load_hook.cache_clear()
    return file


def config(name: str | None, **settings: Any) -> TokenizeConfig:
    hook = f"token_hooks_of_a_test:{name}" if name else None
    return TokenizeConfig(**{"token_hook": hook, "verify_fraction": 1.0, "media": "reference", **settings})


def made(name: str | None, out: Path, options: Callable[..., Any], **settings: Any) -> tuple[Any, list[dict[str, Any]]]:
    how: dict[str, Any] = {"datasets": ["photo_talk"]}
    samples = open_samples(builtin_data(), limit=settings.pop("limit", 8), **how)
    manifest = tokenize(samples, PROCESSOR, config(name, **settings), options(out, max_reject_rate=1.0))
    return manifest, list(Store(out).rows())


def test_what_it_gives_is_written_and_compared_behind_it(options: Callable[..., Any], tmp_path: Path) -> None:
    _, plain = made(None, tmp_path / "plain", options)
    manifest, rows = made("ends_untrained", tmp_path / "a", options)
    changed = 0
    for row, before in zip(rows, plain, strict=True):
        assert np.array_equal(row["input_ids"], before["input_ids"])
        lost = np.flatnonzero(row["labels"] != before["labels"])
        with_picture = len(before["image_grid_thw"]) > 0
        assert len(lost) == with_picture and all(before["labels"][lost] != -100)
        changed += with_picture
    proof = manifest.proof
    assert 0 < changed == manifest.totals["changed_by_token_hook"] == proof["token_hook"]["rows_changed"]
    assert proof["token_hook"]["source"] and proof["labels_found_twice"] == len(rows) == sum(proof["rows"].values())
    names = {row["sample_id"]: len(row["image_grid_thw"]) > 0 for row in rows}
    for name, expected in names.items():  # which rows it changed
        assert ("changed_by_token_hook" in notes_of(Store(tmp_path / "a"), name)) == expected


def test_lengths_are_judged_behind_it(options: Callable[..., Any], tmp_path: Path) -> None:
    _, plain = made(None, tmp_path / "plain", options)
    longest = max(len(row["input_ids"]) for row in plain)
    _, rows = made("begins", tmp_path / "a", options, max_length=longest + 2)
    assert {each["reason"] for each in read_rejects(tmp_path / "a")} == {"overlong"}
    for row in rows:
        assert row["input_ids"][:3].tolist() == [7, 8, 9] and set(row["labels"][:3]) == {-100}
    manifest, rows = made("begins", tmp_path / "b", options, max_length=longest + 2, overlong="cut")
    assert len(rows) == len(plain) and manifest.totals["cut_inside"] >= 1
    assert check_store(tmp_path / "b", PROCESSOR, token_hook="token_hooks_of_a_test:begins").sound


@pytest.mark.parametrize(
    ("name", "reason", "said"),
    [
        ("none", "not_wanted", "leaves the row out"),
        ("raises", "hook_error", "ValueError"),
        ("drops_a_media_token", "hook_error", "media tokens"),
        ("drops_the_start_of_a_picture", "hook_error", "around them"),
        ("other_grid", "hook_error", "image_grid_thw"),
        ("shorter_labels", "hook_error", "labels"),
        ("own_labels", "hook_error", "neither -100"),
        ("no_such_id", "hook_error", "vocabulary"),
        ("messages", "hook_error", "row_hook"),
        ("fewer_keys", "hook_error", "image_grid_thw"),
        ("all_untrained", "no_supervised_tokens", "trained"),
    ],
)
def test_what_cannot_be_written_is_a_reject(
    name: str, reason: str, said: str, options: Callable[..., Any], tmp_path: Path
) -> None:
    manifest, rows = made(name, tmp_path / "a", options, limit=2)
    (reject, *_) = rejects = read_rejects(tmp_path / "a")
    assert not rows and len(rejects) == manifest.totals["rows_in"] == 2
    assert reject["reason"] == reason and said in reject["message"]


def test_one_that_gives_otherwise_a_second_time_stops_the_run(options: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ExactnessError, match="a second time"):
        made("otherwise_each_time", tmp_path / "a", options, limit=2)


def test_its_source_is_in_the_fingerprint_and_no_store_asks_for_it(
    hooks: Path, options: Callable[..., Any], tmp_path: Path
) -> None:
    samples = open_samples(builtin_data(), datasets=["photo_talk"], limit=2)
    how = options(tmp_path / "a")
    one = prepare(samples, PROCESSOR, config("begins"), how)[1]
    hooks.write_text(CODE + "\n# changed\n")
    assert prepare(samples, PROCESSOR, config("begins"), how)[1] != one
    made("begins", tmp_path / "a", options, limit=2)
    assert "token_hook" not in (tmp_path / "a" / "run.yaml").read_text()
    with pytest.raises(StoreError, match="no code is run"):
        check_store(tmp_path / "a", PROCESSOR)
    made(None, tmp_path / "b", options, limit=2)
    with pytest.raises(StoreError, match="no token_hook"):
        check_store(tmp_path / "b", PROCESSOR, token_hook="token_hooks_of_a_test:begins")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["config"]["token_hook"].endswith(":begins")


def test_one_that_is_not_there_stops_before_the_run(options: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token_hook"):
        made("no_such_function", tmp_path / "a", options)
