"""Small samples of `make bytes` and `make fuzz`, and properties of what reads somebody else's word."""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_prep.core.errors import StoreError
from vlm_prep.core.plain_text import MOST_CHARACTERS, settled
from vlm_prep.shards.manifest import Manifest, parse_manifest, sealed, unsealed
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_names import is_store_name

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
fixed = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXT = st.text(max_size=30)
from_here = pytest.mark.usefixtures("packed")
"""Has torch and the processor loaded before `run` forks."""
PARTS = st.sampled_from(["..", ".", "", "/", "train", "_work", "manifest.json", "data-0-of-1.arrow", "\\", "\0"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), TEXT)
JSON = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)), max_leaves=8
)


def run(script: str, folder: Path, *words: object) -> tuple[int | None, str]:
    """Run a script in a fork, which need not import and load anew what is here; return its status and its output."""
    told = folder / "told"

    def main() -> None:
        with open(told, "w", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            gc.freeze()  # what this process holds is not looked through again and again by its forks
            sys.argv = [script, *map(str, words)]
            sys.path.insert(0, str(SCRIPTS))
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    process.join()
    return process.exitcode, told.read_text()


@from_here
def test_no_changed_byte_is_missed_and_none_crashes_a_reader(tmp_path: Path) -> None:
    status, told = run("every_byte.py", tmp_path, "--every", "2999", "--folder", tmp_path / "bytes")
    assert status == 0, told[-3000:]
    assert "encoded" in told


@from_here
@pytest.mark.parametrize(("every", "stores"), [(1999, "encoded,ranks"), (12, "ingested")])
def test_no_forged_shard_crashes_a_reader(every: int, stores: str, tmp_path: Path) -> None:
    words = ["--forge", "--every", every, "--folder", tmp_path / "bytes", "--stores", stores]
    status, told = run("every_byte.py", tmp_path, *words)
    assert status == 0, told[-3000:]


@from_here
@pytest.mark.parametrize("part", [f"{part}/4" for part in range(1, 5)])
def test_no_changed_input_ends_in_a_traceback_or_outside_of_its_folder(part: str, tmp_path: Path) -> None:
    """The same 26,000 inputs each time, 60 to 3,000 of each target."""
    status, told = run("fuzz.py", tmp_path, "--inputs", "1", "--part", part, "--folder", tmp_path / "fuzz")
    assert status == 0, told[-3000:]


@fixed
@given(st.one_of(TEXT, st.lists(PARTS, max_size=4).map("/".join), st.lists(PARTS, max_size=4).map("".join)))
def test_a_name_that_is_taken_leads_to_a_file_of_the_store(name: str) -> None:
    if is_store_name(name):
        path = Path("/store") / name
        assert path.resolve() == path
        assert path.parent == Path("/store") or path.parent.parent == Path("/store")
        assert not name.startswith(("_", ".", "/"))


@fixed
@given(st.dictionaries(TEXT.filter(lambda name: name != "checksum"), JSON, max_size=4), st.data())
def test_a_changed_byte_of_a_sealed_table_is_noticed_or_changes_nothing(
    table: dict[str, Any], data: st.DataObject
) -> None:
    whole = sealed(table)
    assert unsealed(whole) == (orjson.loads(orjson.dumps(table)), True)
    place = data.draw(st.integers(0, len(whole) - 1))
    other = bytearray(whole)
    other[place] ^= data.draw(st.integers(1, 255))
    try:
        found, as_written = unsealed(bytes(other))
    except ValueError:
        return
    # a program's own form of the same, or a name of the checksum that is none: the table has a key too many then
    assert not as_written or found == table or len(found) == len(table) + 1


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(inner, (*at, key))
    return found


@pytest.fixture(scope="module")
def manifests(tokenized: Path, packed: Path, ingested: Path) -> list[dict[str, Any]]:
    found = [orjson.loads((folder / "manifest.json").read_bytes()) for folder in (tokenized, packed, ingested)]
    return [{name: value for name, value in each.items() if name != "checksum"} for each in found]


@fixed
@given(data=st.data())
def test_a_manifest_with_another_value_anywhere_is_read_or_refused(
    manifests: list[dict[str, Any]], tmp_path: Path, data: st.DataObject
) -> None:
    table = orjson.loads(orjson.dumps(data.draw(st.sampled_from(manifests))))
    *way, last = data.draw(st.sampled_from([place for place in places(table) if place]))
    inner = table
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    (tmp_path / "manifest.json").write_bytes(sealed(table))
    try:
        found = parse_manifest(sealed(table), "store")
        assert isinstance(found, Manifest)
        Store(tmp_path)
    except StoreError as error:
        if "\n" in error.message or len(error.message) > 1000:
            raise AssertionError("no one-line message") from error


@fixed
@given(st.text(max_size=200), st.integers(1, 200))
def test_a_settled_text_is_settled_and_short(text: str, times: int) -> None:
    found = settled(text * times)
    assert len(found) <= MOST_CHARACTERS + 20
    assert len(text) * times > MOST_CHARACTERS or settled(found) == found or "0x" in text
