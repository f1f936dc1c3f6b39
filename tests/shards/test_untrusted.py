"""What a store, a list of it or a bucket says is somebody else's word: names, numbers, lengths and links."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pytest
from PIL import Image

from vlm_prep.core.errors import StoreError
from vlm_prep.engine.publish import decide, publish_staged, staging
from vlm_prep.pack.model_rule import stored_rule
from vlm_prep.processors.backbone import Backbone
from vlm_prep.processors.payload.patches import Patches
from vlm_prep.shards.manifest import read_manifest, sealed
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import must_be_readable
from vlm_prep.shards.store_check import damaged_files
from vlm_prep.shards.store_names import is_store_name
from vlm_prep.shards.transfer import push
from vlm_prep.stream import ShardDataset

EVIL = ["../evil.txt", "../../evil.txt", "/tmp/evil.txt", "train/../../evil.txt", "_work/plan.json", "train/x/y.arrow"]
EVIL += ["", ".", "..", "train", "train/", "/train/state.json", "train/notes.txt", "notes.txt", ".hidden", "train\n/a"]
EVIL += ["train/data-00000-of-00001.arrow.tmp", "a/data-00000-of-00001.arrow\n", "a/data-٣-of-1.arrow"]


@pytest.fixture
def store(tokenized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenized, tmp_path / "tok"))


def edit(store: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Change a manifest; sealed, its own checksum is right again, as whoever means harm would write it."""
    data = json.loads((store / "manifest.json").read_bytes())
    data.pop("checksum")
    change(data)
    (store / "manifest.json").write_bytes(sealed(data) if seal else orjson.dumps(data))


def first(data: dict[str, Any]) -> dict[str, Any]:
    shard: dict[str, Any] = data["splits"]["train"][0]
    return shard


# ---- names ----


@pytest.mark.parametrize("name", EVIL)
def test_a_name_that_no_file_of_a_store_has_is_refused(name: str) -> None:
    assert not is_store_name(name)


def test_all_names_of_real_stores_are_names_of_stores(tokenized: Path, packed: Path, packed_index: Path) -> None:
    for folder in (tokenized, packed, packed_index):
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        assert [name for name in names if not is_store_name(name)] == []


@pytest.mark.parametrize("split", ["../../../x", "/x", "", "..", "_work", "a/b", "x" * 300, "tr\x1bain"])
def test_a_split_that_leads_out_of_the_store_is_not_read(store: Path, split: str) -> None:
    shutil.copytree(store / "train", store.parent / "x")
    edit(store, lambda data: data["splits"].update({split: data["splits"].pop("train")}))
    for read in (Store, ShardDataset):
        with pytest.raises(StoreError, match=r"manifest\.json is damaged: splits has a folder"):
            read(store)


@pytest.mark.parametrize("name", ["../data-00000-of-00001.arrow", "/etc/passwd", "x.arrow", "data-1-of-1.exe", 7, None])
def test_a_shard_of_another_name_is_not_read(store: Path, name: object) -> None:
    edit(store, lambda data: first(data).update(name=name))
    with pytest.raises(StoreError, match="no name of a shard"):
        Store(store)


@pytest.mark.parametrize("name", ["../../evil.txt", "/tmp/vlm-prep-evil.txt", "_work/lock", "train/../../evil.txt", 5])
def test_a_staged_list_moves_nothing_out_of_its_store(store: Path, name: Any) -> None:
    staging(store).mkdir(parents=True)
    (staging(store) / "README.md").write_text("new")
    (store.parent / "evil.txt").write_text("evil")
    decide(store, ["README.md", name])
    before = (store / "README.md").read_bytes()
    with pytest.raises(StoreError, match="no file of a store has such a name"):
        publish_staged(store)
    assert (store / "README.md").read_bytes() == before  # all names are looked at before the first is moved
    assert not (store.parent.parent / "evil.txt").exists()


@pytest.mark.parametrize("content", [b"{", b"{}", b"null", b'"README.md"', b"\xff"])
def test_a_damaged_staged_list_is_named(store: Path, content: bytes) -> None:
    staging(store).mkdir(parents=True)
    (store / "_work" / "staged.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"staged\.json is damaged"):
        publish_staged(store)


@pytest.mark.parametrize("where", ["source", "target", "folder"])
def test_nothing_is_moved_through_a_link(store: Path, where: str) -> None:
    outside = store.parent / "outside"
    outside.mkdir()
    (outside / "state.json").write_text("theirs")
    (staging(store) / "train").mkdir(parents=True)
    if where == "source":
        (staging(store) / "train" / "state.json").symlink_to(outside / "state.json")
    else:
        (staging(store) / "train" / "state.json").write_text("ours")
    if where == "target":
        (store / "train" / "state.json").unlink()
        (store / "train" / "state.json").symlink_to(outside / "state.json")
    if where == "folder":
        shutil.rmtree(store / "train")
        (store / "train").symlink_to(outside)
    decide(store, ["train/state.json"])
    with pytest.raises(StoreError, match="is a link"):
        publish_staged(store)
    assert (outside / "state.json").read_text() == "theirs"


def test_a_link_is_not_pushed(store: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (store / "README.md").unlink()
    (store / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match=r"README\.md is a link"):
        push(store, "memory://bucket/store", print)


# ---- numbers ----


NUMBERS: list[Any] = [-1, -5, 10**15, 2**62, 1.5, "7", None, True, [], {}, float("nan")]


@pytest.mark.parametrize("seal", [True, False])
@pytest.mark.parametrize("number", NUMBERS, ids=str)
@pytest.mark.parametrize("key", ["rows", "bytes", "tokens"])
def test_a_number_of_a_shard_that_cannot_be_is_refused(
    tokenized: Path, tmp_path: Path, key: str, number: Any, seal: bool
) -> None:
    store = only_manifest(tokenized, tmp_path)
    edit(store, lambda data: first(data).update({key: number}), seal=seal)
    if key == "tokens" and number in (10**15, 2**62) and number is not True:
        return  # found by `verify` from the sums
    with pytest.raises(StoreError):
        Store(store)


@pytest.mark.parametrize("offset", [-8, 2**62, 0, 8, 12345, None, "8"])
def test_an_offset_of_a_batch_that_is_none_is_refused_by_readers_and_named_by_verify(store: Path, offset: Any) -> None:
    edit(store, lambda data: first(data)["batches"][0].__setitem__(0, offset))
    shard = store / "train" / "data-00000-of-00001.arrow"
    try:
        manifest = read_manifest(store)
    except StoreError as error:
        assert "manifest.json is damaged" in error.message  # noqa: PT017 (either way of refusing will do)
        return
    assert any(shard.name in line for line in damaged_files(store, manifest))
    with pytest.raises(StoreError, match=shard.name):
        Store(store).row(0)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(splits=[]),
        lambda data: data["splits"].update(train={}),
        lambda data: data["splits"].update(train=[1]),
        lambda data: data.update(totals=[]),
        lambda data: data["totals"].update(rows_in=-5),
        lambda data: data["totals"].update(rows_in=data["totals"]["rows_in"] + 1),
        lambda data: data["totals"].update(rejects={"overlong": "many"}),
        lambda data: data["totals"].update(datasets={"a": 1}),
        lambda data: data["totals"].update(datasets={"a": {"rows_in": 1}}),
        lambda data: data["totals"].update(videos="many"),
        lambda data: data["totals"].update(video_seconds=-1.5),
        lambda data: data["totals"].update(packs=1),
        lambda data: data["totals"].update(unread_keys={"a": {"row.b": {"rows": "many", "example": ""}}}),
        lambda data: data["proof"].pop("against"),
        lambda data: data["proof"].update(compared="pixels"),
        lambda data: data["proof"].update(rows={"image": "all"}),
        lambda data: data["extra"].update(plan={"lower_bounds": {}, "steps": {}}),
        lambda data: data["extra"].update(certificate={"passed": True}),
        lambda data: data["processor"].update(token_types={"1": [None]}),
        lambda data: data["processor"]["parts"]["image"].update(masks={"a": ["b"]}),
        lambda data: data["processor"]["parts"]["image"].update(axes={"a": "1"}),
        lambda data: data.update(tasks=[-1]),
        lambda data: data.update(tasks=1),
        lambda data: data.update(poison=[{"row": 1}]),
        lambda data: data.update(stage=3),
        lambda data: data.update(stage="../x"),
        lambda data: data.update(fingerprint=None),
        lambda data: data.update(config=None),
        lambda data: data.update(extra={"retries": 3}),
        lambda data: data["processor"].update(tensors=[{"name": "../x"}]),
        lambda data: data["processor"]["parts"]["image"].update(part_class="os.system"),
        lambda data: data["splits"]["train"].append(data["splits"]["train"][0]),
        lambda data: data.update(files={"../x": {"bytes": 1, "xxh3": "xxh3:" + "0" * 32}}),
        lambda data: data.update(files={"README.md": {"bytes": 1, "xxh3": "md5"}}),
        lambda data: data.update(unknown=1),
        lambda data: first(data).update(xxh3="../../x"),
        lambda data: first(data).update(heads=["0" * 16]),
        lambda data: first(data).update(batches=[[1 << 62, 3]]),
        lambda data: first(data).pop("bytes"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused_in_one_line(
    tokenized: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    store = only_manifest(tokenized, tmp_path)
    edit(store, change)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged") as caught:
        read_manifest(store)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("change", [{"known": "yes"}, {"loss_reads\x1b[2J": True}, {"models": [1]}])
def test_a_model_that_a_store_describes_as_none_is_an_error_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"processor\.backbone") as caught:
        Backbone.from_json(Backbone().to_json() | {"layers": {}} | change)
    assert "\n" not in caught.value.message


def test_a_model_is_read_as_it_was_written() -> None:
    written = Backbone(models=("a", "b"), layers={"conv": 2}, never_told="so", reads=("seq_idx",))
    assert Backbone.from_json(json.loads(json.dumps(written.to_json()))) == written


def test_a_million_ranks_are_refused(packed: Path, tmp_path: Path) -> None:
    store = only_manifest(packed, tmp_path)
    edit(store, lambda data: data["config"].update(world_size=10**9))
    with pytest.raises(StoreError, match="world_size"):
        ShardDataset(store)


def test_a_manifest_changed_by_a_program_is_read_and_verify_says_so(store: Path) -> None:
    data = json.loads((store / "manifest.json").read_bytes())
    data["config"]["fps"] = 9.0
    (store / "manifest.json").write_text(json.dumps(data))
    found = damaged_files(store, read_manifest(store))
    assert [line for line in found if "manifest.json: was changed" in line]


def only_manifest(whole: Path, tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(whole / "manifest.json", store)
    return store


# ---- shards ----


# ---- notes of an unfinished folder ----


def test_a_struct_without_fields_is_no_column_of_a_shard() -> None:
    with pytest.raises(ValueError, match="which no shard has"):
        must_be_readable(pa.schema([("media", pa.list_(pa.struct([])))]))


def test_sizes_of_pictures_that_a_row_says_take_no_memory(tmp_path: Path) -> None:
    """One changed byte of a row's height asked for 203 GiB."""
    Image.new("RGB", (56, 56), (9, 99, 9)).save(tmp_path / "a.png")
    part = SimpleNamespace(resize=None)
    made = Patches(part, {"patch_size": 14, "merge_size": 2})
    file = {"uri": str(tmp_path / "a.png"), "digest": None, "bytes": np.fromfile(tmp_path / "a.png", np.uint8)}
    seen: list[tuple[int, ...]] = []
    made.tensors = lambda picture: seen.append(picture.shape) or {}  # type: ignore[method-assign, func-returns-value]
    for height in (56, 1 << 31, -1, 0):
        made.of_media({"files": [file], "height": height, "width": 56})
    assert seen == [(56, 56, 4)] * 4


@pytest.mark.parametrize("mrope", [{"a": 1}, {}, {"scheme": "none"}])
def test_positions_that_no_version_knows_are_an_error_in_words(mrope: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"processor\.mrope of the manifest"):
        stored_rule(cast(Any, {"mrope": mrope}))
