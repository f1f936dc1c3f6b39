"""`vlm-prep verify` and `rejects` on a real store, sound and damaged."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.cli.main import main
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with rejects: the longest built-in rows do not fit 700 tokens."""
    out = tmp_path_factory.mktemp("verify") / "tok"
    samples = open_samples(builtin_data())
    config = TokenizeConfig(max_length=700, fps=2.0)
    tokenize(samples, PROCESSOR, config, RunOptions(out=out, max_reject_rate=1.0, say=lambda line: None))
    return out


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tok"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vlm-prep", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_sound_store_passes_and_every_row_is_compared(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "verify", str(store), "-p", PROCESSOR, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sound"]
    assert sum(counts["checked"] for counts in found["kinds"].values()) == found["rows"] > 20
    assert found["identity"] == []


def test_a_flipped_bit_is_found_and_the_shard_is_named(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next((store / "train").glob("*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert run(monkeypatch, "verify", str(store)) == 2
    assert shard.name in capsys.readouterr().out


def test_another_chat_template_differs_and_is_named(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlm_prep.builtin import builtin_processor

    other = Path(shutil.copytree(builtin_processor("qwen2.5-vl-mini"), tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("You are a helpful assistant.", "You are a terse assistant."))
    assert run(monkeypatch, "verify", str(store), "-p", str(other)) == 4
    out = capsys.readouterr().out
    assert "chat_template: " in out
    assert "input_ids: " in out


def test_rejects_are_listed_and_filtered(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rejects(store)
    assert rows
    assert run(monkeypatch, "rejects", str(store), "--reason", "overlong", "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert run(monkeypatch, "rejects", str(store), "--reason", "missing_file", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_media_that_are_gone_are_said_to_be_and_not_to_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(builtin_data().parent, tmp_path / "data") / builtin_data().name
    out = tmp_path / "tok"
    config = TokenizeConfig(max_length=700, fps=2.0, media="reference")
    tokenize(open_samples(data), PROCESSOR, config, RunOptions(out=out, max_reject_rate=1.0, say=lambda line: None))
    rows = [row["media"] for row in Store(out).rows()]
    gone = next(Path(media[0]["files"][0]["uri"]) for media in rows if media and media[0]["kind"] == "image")
    gone.unlink()
    capsys.readouterr()
    assert run(monkeypatch, "verify", str(out), "-p", PROCESSOR, "--json") != 0
    found = json.loads(capsys.readouterr().out)
    assert not found["sound"]
    assert sum(counts["unread"] for counts in found["kinds"].values()) > 0
    assert sum(counts["differing"] for counts in found["kinds"].values()) == 0
    assert run(monkeypatch, "verify", str(out), "-p", PROCESSOR) != 0
    said = "".join(capsys.readouterr())
    assert "are gone or were changed" in said and "do not train" not in said and gone.name in said
