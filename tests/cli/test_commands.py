"""What each command prints, where, and what it writes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import vlm_prep
from vlm_prep.builtin import builtin_data
from vlm_prep.cli import main as cli
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store

PROCESSOR = "builtin:qwen2.5-vl-mini"
META = builtin_data()
COMMANDS = tuple(each.name for each in cli.app.registered_commands if each.name)
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]
Call = Callable[..., tuple[str, str]]


@pytest.fixture
def call(call: Command) -> Call:
    """`call("stats", folder)`: run a command that succeeds in this process; return its stdout and stderr."""

    def run(*arguments: object) -> tuple[str, str]:
        done = call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


# ---- help ----


def parameters(name: str) -> list[Any]:
    """Return the arguments and options of a command."""
    root: Any = typer.main.get_command(cli.app)
    found: list[Any] = root.commands[name].params
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself_and_each_of_its_options(call: Call, name: str) -> None:
    out, _ = call(name, "--help")
    assert out.startswith(f"Usage: vlm-prep {name} ")
    assert [each.name for each in parameters(name) if not getattr(each, "help", None)] == []


def test_the_root_lists_every_command(call: Call) -> None:
    out, _ = call("--help")
    assert [name for name in COMMANDS if f"\n  {name} " not in out] == []


def test_the_version_is_the_package_s(call: Call) -> None:
    assert call("--version") == (f"vlm-prep {vlm_prep.__version__}\n", "")


def test_help_does_not_import_the_heavy_libraries() -> None:
    code = "import sys, vlm_prep.cli.main; print(*{'torch', 'transformers', 'datasets'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


# ---- ingest ----


def test_ingest_reports_rows_and_datasets(call: Call, tmp_path: Path) -> None:
    out, _ = call("ingest", META, "--out", tmp_path / "out")
    assert "40 in = 40 written + 0 rejected" in out
    assert re.search(r"photo_talk +20 of 20 rows", out)


def test_ingest_dry_run_writes_nothing(call: Call, tmp_path: Path) -> None:
    out, _ = call("ingest", META, "--out", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(out)["rows"] == 40
    assert re.search(r"^rows +40$", call("ingest", META, "--out", tmp_path / "out", "--dry-run")[0], re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_limit_takes_the_first_rows_of_all_datasets_together(call: Call, tmp_path: Path) -> None:
    call("ingest", META, "--out", tmp_path / "out", "--limit", 18)
    ids = [row["sample_id"] for row in Store(tmp_path / "out").rows()]
    assert ids == [*(f"parts_talk/{row}" for row in range(16)), "photo_talk/0", "photo_talk/1"]


def test_dataset_takes_the_named_ones(call: Call, tmp_path: Path) -> None:
    named = ("--dataset", "tool_talk", "--dataset", "parts_talk")
    call("ingest", META, "--out", tmp_path / "out", *named)
    assert sorted(read_manifest(tmp_path / "out").totals["datasets"]) == ["parts_talk", "tool_talk"]


def test_column_and_tag_name_what_the_rows_use(call: Call, tmp_path: Path) -> None:
    row = {"chat": [{"who": "q", "says": "hi"}, {"who": "a", "says": "hello"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    tags = ("role_tag=who", "content_tag=says", "user_tag=q", "assistant_tag=a")
    named = ["--column", "messages=chat", *(word for tag in tags for word in ("--tag", tag))]
    call("ingest", tmp_path / "rows.jsonl", "--out", tmp_path / "out", *named)
    conversation = json.loads(Store(tmp_path / "out").row(0)["conversation"])
    assert [message["role"] for message in conversation["messages"]] == ["user", "assistant"]


def test_sample_ratio_repeats_rows(call: Call, tmp_path: Path) -> None:
    rows = META.parent / "tool_talk.json"
    call("ingest", rows, "--out", tmp_path / "out", "--sample-ratio", 2.5)
    assert len(Store(tmp_path / "out")) == 10


# ---- tokenize ----


def test_tokenize_reports_the_proof(call: Call, tmp_path: Path) -> None:
    line = ("--processor", PROCESSOR, "--fps", 2, "--workers", 1)
    out, _ = call("tokenize", META, *line, "--out", tmp_path / "out")
    assert "40 in = 40 written + 0 rejected" in out
    assert "4 of 4 video rows equal to Qwen2_5_VLProcessor" in out


def test_tokenize_dry_run_writes_nothing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out, _ = call("tokenize", META, "--processor", PROCESSOR, "--fps", 2, "--dry-run", "--json")
    found = json.loads(out)
    assert (found["rows"], found["first_rows"]["written"]) == (40, 40)
    assert not list(tmp_path.iterdir())


def test_tokenize_names_its_output_after_the_source(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("tokenize", META, "--processor", PROCESSOR, "--limit", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["meta.tok"]


def test_a_first_run_with_workers_prints_json_alone_on_stdout_and_no_bar(
    command: Command, many_rows: Path, tmp_path: Path
) -> None:
    line = ("--processor", PROCESSOR, "--fps", 2, "--workers", 2, "--json")
    result = command("tokenize", many_rows, *line, "--out", tmp_path / "out")
    assert result.returncode == 0
    assert json.loads(result.stdout)["totals"]["rows_written"] == 640
    assert "rows/s" not in result.stderr
    assert "%|" not in result.stderr


def test_quiet_prints_the_result_alone(command: Command, tmp_path: Path) -> None:
    line = ("--processor", PROCESSOR, "--limit", 1, "--workers", 1, "--quiet", "--json")
    result = command("tokenize", META, *line, "--out", tmp_path / "out")
    assert result.stderr == ""
    assert json.loads(result.stdout)["totals"]["rows_written"] == 1


def test_notes_go_to_stderr(call: Call, tmp_path: Path) -> None:
    line = ("ingest", META, "--out", tmp_path / "out", "--json")
    call(*line)
    out, err = call(*line)
    assert json.loads(out)["totals"]["rows_in"] == 40
    assert "is complete already" in err


def test_a_terminal_sees_progress(many_rows: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    line = [str(Path(sys.executable).with_name("vlm-prep")), "ingest", str(many_rows), "--workers", "1"]
    run = subprocess.Popen([*line, "--out", str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert run.wait() == 0
    assert b"640/640" in shown


# ---- pack, stats ----


@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_pack_reports_packs_and_fill(call: Call, tokenized: Path, tmp_path: Path, layout: str) -> None:
    line = ("--pack-length", 2048, "--world-size", 2, "--layout", layout)
    out, _ = call("pack", tokenized, *line, "--out", tmp_path / "out")
    totals = read_manifest(tmp_path / "out").totals
    assert f"{totals['packs']} for 2 rank(s), fill {totals['fill']:.2%}" in out


def test_pack_dry_run_says_what_a_run_would_write_and_writes_nothing(
    call: Call, tokenized: Path, packed: Path, tmp_path: Path
) -> None:
    line = ("--pack-length", 2048, "--world-size", 2, "--out", tmp_path / "out", "--dry-run")
    preview = json.loads(call("pack", tokenized, *line, "--json")[0])
    assert f"packs {preview['packs']}" in " ".join(call("pack", tokenized, *line)[0].split())
    totals = read_manifest(packed).totals
    assert {name: preview[name] for name in ("packs", "packs_by_rank", "tokens", "fill")} == {
        name: totals[name] for name in ("packs", "packs_by_rank", "tokens", "fill")
    }
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("store", ["ingested", "tokenized", "packed", "packed_index"])
def test_stats_are_the_same_numbers_as_text_and_as_json(call: Call, store: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(store)
    text, _ = call("stats", folder)
    found = json.loads(call("stats", folder, "--json")[0])
    assert f"output of {found['stage']}" in text
    assert f"{found['totals']['rows_in']} in = {found['totals']['rows_written']} written" in text


def test_stats_do_not_change_the_store(call: Call, packed: Path, tree: Tree) -> None:
    before = tree(packed)
    call("stats", packed)
    assert tree(packed) == before


def test_output_cut_by_a_pager_is_no_error(packed: Path) -> None:
    line = f"'{Path(sys.executable).with_name('vlm-prep')}' stats '{packed}' --json | head -n 1"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.stdout == "{\n"
    assert "Traceback" not in result.stderr


# ---- demo ----


def test_demo_goes_from_rows_to_batches_and_can_be_run_again(call: Call, tmp_path: Path, tree: Tree) -> None:
    pytest.importorskip("vlm_prep.stream")
    out, _ = call("demo", "--out", tmp_path / "demo")
    assert "40 in = 40 written" in out
    assert re.search(r"packed, rank 1 of 2: \d+ batches", out)
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["packed", "tok"]
    before = tree(tmp_path / "demo")
    call("demo", "--out", tmp_path / "demo")
    assert tree(tmp_path / "demo") == before
