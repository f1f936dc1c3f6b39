"""`vlm-prep state show`: what a saved position says, and whether it belongs to a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from vlm_prep.stream import ShardDataset


@pytest.fixture
def state(tokenized: Path, tmp_path: Path) -> Path:
    """A state after 12 rows of epoch 2."""
    path = tmp_path / "state.json"
    path.write_text(json.dumps(ShardDataset(tokenized, seed=5).state_at(2, 12).to_json()))
    return path


def test_a_state_is_shown(call: Any, state: Path) -> None:
    shown = call("state", "show", state)
    assert shown.returncode == 0
    found = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (found["seed"], found["epoch"], found["consumed"], found["version"]) == ("5", "2", "12", "2")


def test_json_is_the_state_and_what_the_store_says(call: Any, state: Path, tokenized: Path, packed: Path) -> None:
    own = json.loads(call("state", "show", state, "--json", "--store", tokenized).stdout)
    assert own == {**json.loads(state.read_text()), "of_this_store": True, "rows": 40, "rows_left": 28}
    other = json.loads(call("state", "show", state, "--json", "--store", packed).stdout)
    assert other["of_this_store"] is False


def test_the_state_in_a_loaders_dict_is_found(call: Any, tokenized: Path, tmp_path: Path) -> None:
    dataset = ShardDataset(tokenized, pixels=False)
    loader = StatefulDataLoader(dataset, batch_size=4, sampler=dataset.sampler(), collate_fn=len)
    iterator = iter(loader)
    next(iterator)
    (tmp_path / "loader.json").write_text(json.dumps(loader.state_dict(), default=str))
    assert json.loads(call("state", "show", tmp_path / "loader.json", "--json").stdout)["consumed"] == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "no state"),
        ("{}", "no position"),
        ('{"version": 99, "fingerprint": "", "seed": 0, "epoch": 0, "consumed": 0}', "version 99"),
    ],
)
def test_what_is_no_state_is_refused(call: Any, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "state.json").write_text(text)
    shown = call("state", "show", tmp_path / "state.json")
    assert shown.returncode == 2
    assert says in shown.stderr


def test_a_missing_file_is_refused(call: Any, tmp_path: Path) -> None:
    assert call("state", "show", tmp_path / "none.json").returncode == 2
