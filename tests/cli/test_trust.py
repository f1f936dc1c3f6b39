"""Python code of a processor runs only where the user's own command or call says so; a store never decides it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data, builtin_processor
from vlm_prep.cli.main import main
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.made_here import is_ours, key_file, marked
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.shards.layout import write_origin
from vlm_prep.shards.manifest import sealed
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.store import check_store

Options = Callable[..., RunOptions]
_CODE = """
from pathlib import Path
Path({mark!r}).write_text("the code ran")
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
class TheirProcessor(Qwen2_5_VLProcessor):
    pass
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Written by the processor's code when it runs."""
    return tmp_path / "ran"


@pytest.fixture
def theirs(tmp_path: Path, mark: Path) -> Path:
    """A processor with code of its own."""
    folder = Path(shutil.copytree(builtin_processor("qwen2.5-vl-mini"), tmp_path / "theirs"))
    (folder / "processing_theirs.py").write_text(_CODE.format(mark=str(mark)))
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {"AutoProcessor": "processing_theirs.TheirProcessor"}
        content["processor_class"] = "TheirProcessor"
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def plain(tmp_path: Path, options: Options) -> Path:
    """A store that needs no code, as its maker's own run left it; some of its rows are rejects."""
    samples = open_samples(builtin_data(), datasets=["tool_talk"])
    config = TokenizeConfig(max_length=340, overlong="drop")
    tokenize(samples, "builtin:qwen2.5-vl-mini", config, options(tmp_path / "plain", max_reject_rate=1.0))
    return tmp_path / "plain"


@pytest.fixture
def store(tmp_path: Path, tokenized: Path, theirs: Path) -> Path:
    """A store whose manifest and origin say that the code of `theirs` is to be trusted; one row is a reject of it."""
    folder = Path(shutil.copytree(tokenized, tmp_path / "store"))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest.pop("checksum")
    for config in (manifest["config"], manifest["identity"]["config"]):
        config["trust_remote_code"] = True
    manifest["fingerprint"] = digest_json(manifest["identity"])
    (folder / "manifest.json").write_bytes(sealed(manifest))
    (folder / "rows.parquet").unlink()  # as in a store that was copied: it belongs to its origin
    write_origin(folder, {"source": {"path": str(builtin_data())}, "processor": str(theirs)})
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vlm-prep", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def unfinished(store: Path) -> Path:
    """The folder of a run in parts whose tasks are done, as `finish` finds it."""
    out = store.parent / "parts"
    (out / "_work" / "done").mkdir(parents=True)
    config = json.loads((store / "manifest.json").read_bytes())["config"]
    origin = json.loads((store / "origin.json").read_bytes())
    plan = {"stage": "tokenize", "fingerprint": "x", "identity": {"config": config}, "tasks": 0, "again": origin}
    (out / "_work" / "plan.json").write_text(json.dumps(plan))
    return out


def test_no_command_runs_code_because_a_store_says_so(
    store: Path, theirs: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[tuple[object, ...]] = [
        ("retry", store, "--reason", "overlong"),
        ("finish", unfinished(store)),
        ("verify", store, "-p", theirs),
        ("why", store),
    ]
    for line in lines:
        assert run(monkeypatch, *line) == 2, line
        errors = capsys.readouterr().err
        assert "--trust-remote-code" in errors, line
        assert "Traceback" not in errors
        assert not mark.exists(), line


@pytest.mark.parametrize("name", ["retry", "finish"])
def test_trust_without_a_name_is_not_trust_in_whatever_the_store_names(
    store: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = ["retry", store, "--reason", "overlong"] if name == "retry" else ["finish", unfinished(store)]
    assert run(monkeypatch, *line, "--trust-remote-code") == 2
    assert "--processor" in capsys.readouterr().err
    assert not mark.exists()


def test_code_runs_where_the_command_says_so(
    store: Path, theirs: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "verify", store, "-p", theirs, "--trust-remote-code", "--fraction", "0.01")
    assert mark.exists()


def test_a_store_without_code_is_verified_without_a_word(tokenized: Path) -> None:
    found = check_store(tokenized, "builtin:qwen2.5-vl-mini", 0.1, lambda rows, tokens, rejects: None)
    assert found.sound


def test_the_library_takes_no_trust_from_a_store(store: Path, theirs: Path, mark: Path) -> None:
    with pytest.raises(StoreError, match="made with Python code"):
        check_store(store, str(theirs), 1.0, lambda rows, tokens, rejects: None)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["AutoModel", "pipeline", "Trainer", "PreTrainedTokenizer", "os", "__loader__", "x"])
def test_a_store_names_no_other_class_than_a_processors_part(tokenized: Path, name: str) -> None:
    from vlm_prep.shards.manifest import read_manifest

    runtime = read_manifest(tokenized).processor
    runtime["parts"]["image"]["part_class"] = name
    with pytest.raises(StoreError, match="has no image, video or audio processor"):
        PixelMaker(runtime).part("image")


@pytest.mark.parametrize(
    "origin",
    [
        {"source": 3},
        {"source": {"path": 0}},
        {"source": {"path": "/", "no_such_argument": 1}},
        {"source": [], "processor": ""},
        {"source": {}, "processor": 1},
        {},
    ],
)
def test_a_damaged_origin_is_one_message(
    plain: Path, origin: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_origin(plain, origin)
    assert run(monkeypatch, "retry", plain, "--reason", "overlong") == 2
    errors = capsys.readouterr().err
    assert errors.count("error:") == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("content", [b"{", b"[]", b'{\n  "checksum": "xxh3:00000000000000000000000000000000"\n}\n'])
def test_an_origin_that_is_none_is_named(
    plain: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (plain / "origin.json").write_bytes(content)
    assert run(monkeypatch, "retry", plain, "--reason", "overlong") == 2
    assert "origin.json is damaged" in capsys.readouterr().err


def test_a_store_made_with_code_is_made_by_saying_so(
    tmp_path: Path, theirs: Path, mark: Path, options: Options
) -> None:
    samples = open_samples(builtin_data(), datasets=["tool_talk"])
    tokenize(samples, str(theirs), TokenizeConfig(trust_remote_code=True), options(tmp_path / "out"))
    assert mark.read_text() == "the code ran"


# ---- places that only a store names ----


def foreign(store: Path, **places: Any) -> Path:
    """Have a store say where its rows and its processor are, as whoever made it elsewhere may."""
    write_origin(store, places)
    return store


def test_ones_own_store_is_retried_and_compared_without_a_word_of_places(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "retry", plain, "--reason", "overlong") == 0, capsys.readouterr().err
    assert run(monkeypatch, "why", plain) == 0


@pytest.mark.parametrize("command", ["retry", "why", "finish"])
def test_the_places_of_a_store_from_elsewhere_are_shown_and_not_opened(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")  # whoever opens it waits for ever
    store = foreign(plain, source={"path": str(tmp_path / "rows.jsonl"), "media_dir": "/etc"}, processor="/nowhere")
    lines: dict[str, list[object]]
    lines = {
        "retry": [store, "--reason", "overlong"],
        "why": [store],
        "finish": [unfinished(store)],
    }
    assert run(monkeypatch, command, *lines[command]) == 2
    errors = capsys.readouterr().err
    for said in ("was not made here by you", str(tmp_path / "rows.jsonl"), "/etc", "/nowhere", "--trust-places"):
        assert said in errors
    assert "Traceback" not in errors


def test_places_that_the_command_names_or_trusts_are_opened(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "builtin:qwen2.5-vl-mini"
    own = json.loads((plain / "origin.json").read_bytes())["source"]
    store = foreign(plain, source=own, processor=name)
    line = ["retry", store, "--reason", "overlong"]
    assert run(monkeypatch, *line, "--source", builtin_data()) == 2
    assert "its processor is builtin" in capsys.readouterr().err
    assert run(monkeypatch, *line, "--source", builtin_data(), "--processor", name) == 0
    assert run(monkeypatch, *line, "--trust-places") == 0
    assert run(monkeypatch, "why", store, "--trust-places") == 0


def test_a_note_that_was_changed_is_no_longer_ones_own(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = json.loads((plain / "origin.json").read_bytes())
    note["source"]["path"] = "/etc/hostname"
    write_origin(plain, {name: value for name, value in note.items() if name != "checksum"})
    assert run(monkeypatch, "retry", plain, "--reason", "overlong") == 2
    assert "not made here by you" in capsys.readouterr().err


def test_the_source_that_packs_from_elsewhere_name_is_not_opened(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = foreign(Path(shutil.copytree(packed, tmp_path / "packs")), source="/somebody/elses")
    assert run(monkeypatch, "why", store) == 2
    assert "its rows are at /somebody/elses" in capsys.readouterr().err
    assert run(monkeypatch, "why", packed) == 0


def test_the_key_is_the_users_alone_and_notes_without_one_are_not_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    note = marked({"source": {"path": "/rows"}})
    assert is_ours(note)
    assert key_file().stat().st_mode & 0o077 == 0
    assert marked({"source": {"path": "/rows"}}) == note
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    assert not is_ours(note)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert marked({"source": {}}) == {"source": {}}
    assert not is_ours(note)


# ---- whose code makes tensors ----


def test_code_of_a_place_that_only_a_store_names_does_not_run_in_training(
    tmp_path: Path, theirs: Path, mark: Path, options: Options
) -> None:
    samples = open_samples(builtin_data(), datasets=["photo_talk"])
    out = tmp_path / "out"
    tokenize(samples, str(theirs), TokenizeConfig(trust_remote_code=True), options(out, max_reject_rate=1.0))
    table = json.loads((out / "manifest.json").read_bytes())
    table.pop("checksum")
    if table["processor"]["whole"] is None:  # its parts are transformers' own: as if they were not
        config = {**TokenizeConfig(trust_remote_code=True).processor.to_json()}
        table["processor"]["whole"] = {"name": str(theirs), "config": config, "placeholders": {}}
        (out / "manifest.json").write_bytes(sealed(table))
    mark.unlink()
    ShardDataset(out, trust_remote_code=True)  # one's own
    write_origin(out, {"source": {"path": "/elsewhere"}, "processor": str(theirs)})
    for line in (lambda: ShardDataset(out, trust_remote_code=True), lambda: pack_with_code(out, tmp_path, options)):
        with pytest.raises(StoreError, match="whose code would run") as caught:
            line()
        assert "`processor`" in str(caught.value.hint)
    assert not mark.exists()
    ShardDataset(out, trust_remote_code=True, processor=str(theirs))
    assert pack_with_code(out, tmp_path, options, processor=str(theirs))


def pack_with_code(store: Path, folder: Path, options: Options, **more: Any) -> Any:
    config = PackConfig(pack_length=1024)
    return pack(store, config, options(folder / "packs", max_reject_rate=1.0), trust_remote_code=True, **more)
