"""No command lets text of data act on the terminal: what is shown can move no cursor, set no title, forge no mark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm_prep.cli import main as cli
from vlm_prep.cli.main import app
from vlm_prep.core.errors import InputError, VlmPrepError
from vlm_prep.core.records import Rejected
from vlm_prep.core.visible import excerpt, visible, visible_json
from vlm_prep.engine.array_parts import parse_part
from vlm_prep.shards.layout import read_rejects, write_rejects

PROCESSOR = "builtin:qwen2.5-vl-mini"
EVIL = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\r\b\x7f\u202e\u2066\u200f\u2028"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
Run = Callable[..., str]


def chat(user: str, answer: str, **columns: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}], **columns}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose texts, roles, paths, keys and names, and whose data set's name, hold what a terminal acts on."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        chat(f"hi {EVIL}", f"ok ⟧{EVIL}⟦ done", **{f"key{EVIL}": EVIL, "thumb": f"{EVIL}.png"}),
        chat("<image>x", "y", images=[f"no{EVIL}\nsuch.jpg"]),
        {"messages": [{"role": f"bad{EVIL}\nrole", "content": "x"}, {"role": "assistant", "content": "y"}]},
        chat("a", "b", tools=[{"name": EVIL}]),
        chat("a", "b"),
        chat("a", "b", label=EVIL),
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"a": "\x1b[2J"\n')
    (folder / "meta.json").write_text(json.dumps({f"set{EVIL}": {"file_name": "rows.jsonl"}}))
    return folder


@pytest.fixture(scope="module")
def run() -> Run:
    """Run a command in this process; what it prints must not act on a terminal."""

    def called(*arguments: object, words: str = "") -> str:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        error = result.exception
        shown = result.output
        if isinstance(error, VlmPrepError):
            shown += visible(str(error), lines=True)
        elif error is not None and not isinstance(error, SystemExit):
            raise error
        assert not ACTS.search(shown), ACTS.findall(shown)
        assert words in shown, shown
        return shown

    return called


@pytest.fixture(scope="module")
def stores(source: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("stores")
    rate = ("--max-reject-rate", 1)
    run("ingest", source / "meta.json", "--out", out / "i", *rate, words="NOT read")
    run("tokenize", source / "meta.json", "-p", PROCESSOR, "--out", out / "t", *rate, words="NOT read")
    return out / "i", out / "t"


def test_lists_of_rejects_and_accounts(stores: tuple[Path, Path], run: Run) -> None:
    for store in stores:
        assert run("rejects", store, words="\\x1b]0;PWNED").count("\n") == 5
        run("stats", store, words="\\u202e")
        rows = json.loads(run("rejects", store, "--json"))
        assert any("PWNED" in row["message"] for row in rows)
        run("stats", store, "--json", words="\\u001b")
        run("verify", store)


def test_labels_show_the_mask_that_is_there(source: Path, run: Run) -> None:
    shown = run("labels", source / "meta.json", "-p", PROCESSOR, words="\\x1b]0;PWNED")
    assert "ok \\u27e7\\x1b" in shown and shown.count("⟦") == shown.count("⟧") == 3
    first = json.loads(run("labels", source / "meta.json", "-p", PROCESSOR, "--json"))[0]
    assert EVIL in "".join(each["text"] for each in first["runs"])
    run("labels", source / "meta.json", "-p", PROCESSOR, "--audit")


def test_dry_runs_and_plans(source: Path, run: Run) -> None:
    run("ingest", source / "meta.json", "--dry-run", words="row.thumb")
    run("tokenize", source / "meta.json", "-p", PROCESSOR, "--dry-run", words="row.thumb")
    run("plan", source / "meta.json", "-p", PROCESSOR, "--no-budgets")


def test_errors(source: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({EVIL: {"file_name": EVIL}}))
    run("ingest", tmp_path / "meta.json", words="no data file")
    (tmp_path / "rows.json").write_text(json.dumps([{EVIL: 1}, {EVIL: EVIL}]))
    run("ingest", tmp_path / "rows.json", words="none of the first 2 rows")
    run("ingest", source / "meta.json", "--dataset", EVIL, words="no dataset")
    run("rejects", tmp_path / f"{EVIL}.store")


def test_explanations(source: Path, run: Run) -> None:
    for row in range(7):
        run("explain", source / "meta.json", row, words="PWNED")
    run("explain", source / "meta.json", 0, "-p", PROCESSOR, words="PWNED")


def test_why_shows_what_differs(source: Path, stores: tuple[Path, Path], run: Run) -> None:
    run("why", stores[0], "ingest", source / "meta.json")


def test_json_keeps_its_value() -> None:
    assert json.loads(visible_json(json.dumps(EVIL, ensure_ascii=False))) == EVIL
    assert not ACTS.search(visible_json(json.dumps(EVIL, ensure_ascii=False)))


def test_an_excerpt_is_short_and_shows_everything() -> None:
    for value in (EVIL, {EVIL: [EVIL, None, 1.5]}, [EVIL] * 1000, "a" * 10_000, {"a": {"b": "c" * 10_000}}, object()):
        assert not ACTS.search(excerpt(value)) and len(excerpt(value)) < 400 and " at 0x" not in excerpt(value)


def test_only_one_module_prints() -> None:
    """A new command that prints past `cli.terminal` would print what data holds as it is."""
    folder = Path(cli.__file__).parent
    printing = re.compile(r"typer\.s?echo\(|(?<![\w.])print\(|sys\.std(?:out|err)\.write|rich\.print")
    found = [path.name for path in folder.parent.rglob("*.py") if printing.search(path.read_text())]
    assert found == ["terminal.py"]


def test_packs_parts_repairs_and_pages(source: Path, stores: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    rate = ("--max-reject-rate", 1)
    run("pack", stores[1], "--out", tmp_path / "p", "--pack-length", 512, *rate)
    for command in ("stats", "rejects", "verify", "status"):
        run(command, tmp_path / "p")
    for number in (1, 2):
        run("ingest", source / "meta.json", "--out", tmp_path / "f", "--part", f"{number}/2")
        run("status", tmp_path / "f")
    run("finish", tmp_path / "f", *rate, words="\\u202e")
    for number, store in enumerate(stores):
        copy = Path(shutil.copytree(store, tmp_path / f"r{number}"))
        run("retry", copy, "--reason", "missing_file", words="\\u202e")
        run("retry", copy, "--reason", EVIL, words="no row was rejected for \\x1b]0;PWNED")
        run("view", copy, "--out", tmp_path / f"{EVIL}.html", words="\\x1b]0;PWNED")
        assert not ACTS.search((tmp_path / f"{EVIL}.html").read_text(encoding="utf-8"))
        run("why", copy)


def test_run_files_states_and_places(source: Path, stores: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    state = {"version": 2, "fingerprint": EVIL, "seed": 0, "epoch": 0, "consumed": 0}
    (tmp_path / "state.json").write_text(json.dumps(state))
    run("state", "show", tmp_path / "state.json", words="\\x1b]0;PWNED")
    run("state", "show", tmp_path / "state.json", "--store", stores[1])
    (tmp_path / "state.json").write_text(json.dumps({**state, "version": EVIL}))
    run("state", "show", tmp_path / "state.json", words="\\x1b]0;PWNED")
    job = {"out": str(tmp_path / f"job{EVIL}"), "ingest": {"source": str(source / "meta.json")}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    run("run", tmp_path / "job.yaml", "--dry-run", words="\\x1b]0;PWNED")
    run("run", tmp_path / "job.yaml", "--set", "ingest.max_reject_rate=1.0", words="\\x1b]0;PWNED")
    for more in ({EVIL: 1}, {"ingest": {EVIL: 1}}, {"ingest": {"format": EVIL}}, {"ingest": EVIL}):
        (tmp_path / "job.yaml").write_text(json.dumps({**job, **more}))
        run("run", tmp_path / "job.yaml")
    folder = Path(shutil.copytree(stores[0], tmp_path / f"store{EVIL}"))
    run("push", folder, EVIL, words="\\x1b]0;PWNED")
    run("pull", EVIL, folder, words="\\x1b]0;PWNED")
    run("doctor", "-p", tmp_path / EVIL, words="PWNED")
    run("doctor", source / "meta.json", "-p", PROCESSOR)


def test_what_libraries_say_acts_on_no_terminal() -> None:
    lines = [
        "import logging, warnings",
        "from vlm_prep.core.own_process import make_own",
        "make_own()",
        f"logging.getLogger('library').error('said of %s', {EVIL!r})",
        f"warnings.warn({EVIL!r})",
    ]
    said = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stderr
    assert said.count("\\x1b]0;PWNED") == 2 and not ACTS.search(said)


def test_a_traceback_of_a_fault_acts_on_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**words: object) -> None:
        raise TypeError(f"an argument {EVIL}")

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(TypeError) as caught:
        cli.main()
    sys.excepthook(caught.type, caught.value, caught.tb)
    shown = capsys.readouterr().err
    assert not ACTS.search(shown)
    assert "Traceback" in shown and "an argument \\x1b]0;PWNED" in shown


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_words_of_a_command_line_that_mean_nothing_are_shown_harmless(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name not in ("demo", "families"):  # they take no word, and would do what they do
        run(name, f"no{EVIL}", f"no{EVIL}", f"no{EVIL}")
    run(name, f"--no{EVIL}")
    run(name, "--workers", f"no{EVIL}")
    run(name, "--config", f"no{EVIL}")


def test_numbers_that_are_none_are_text(stores: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(stores[1], tmp_path / "t"))
    digits = "9" * 5000  # more than Python makes an int of
    rejects = [Rejected(**{**each, "message": f"{digits} tokens, --max-length is 1"}) for each in read_rejects(copy)]
    write_rejects(copy, rejects)
    run("view", copy, "--out", tmp_path / "page.html")
    assert digits[:100] in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="expected i/n"):
        parse_part(f"{digits}/{digits}")
