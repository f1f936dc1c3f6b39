"""`vlm-prep run`: a job does what is missing or changed, and no more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import main
from vlm_prep.shards.manifest import read_manifest

Tree = Callable[[Path], dict[str, str]]
Job = Callable[..., list[dict[str, Any]]]

TEXT = f"""\
source: {builtin_data()}
processor: builtin:qwen2.5-vl-mini
out: job
ingest:
  datasets: [photo_talk]
  limit: 6
tokenize:
  max_length: 900
pack:
  pack_length: 1024
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A job of three stages."""
    path = tmp_path / "job.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def job(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Job:
    """`job("--dry-run")`: what `vlm-prep run` says in JSON."""

    def run(*words: str, status: int = 0) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["vlm-prep", "run", str(file), "--json", "--quiet", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == status
        told = capsys.readouterr()
        return json.loads(told.out) if told.out else [{"error": told.err}]

    return run


def states(told: list[dict[str, Any]]) -> dict[str, str]:
    return {each["stage"]: each["state"] for each in told}


def test_a_job_does_its_stages_and_then_only_what_changed(job: Job, file: Path, tree: Tree) -> None:
    folder = file.parent / "job"
    assert states(job("--dry-run")) == {"ingest": "missing", "tokenize": "waits", "pack": "waits"}
    assert not folder.exists()
    first = job()
    assert states(first) == dict.fromkeys(("ingest", "tokenize", "pack"), "missing")
    assert [each["rows_in"] for each in first] == [6, 6, 6]
    assert sorted(path.name for path in folder.iterdir()) == ["ingested", "packed", "tokenized"]
    before = tree(folder)

    assert states(job("--dry-run")) == dict.fromkeys(("ingest", "tokenize", "pack"), "done")
    job()
    assert tree(folder) == before

    told = job("--dry-run", "--set", "tokenize.train_on=last")
    assert states(told) == {"ingest": "done", "tokenize": "changed", "pack": "waits"}
    assert told[1]["changes"] == ["config.train_on: 'assistant' then, 'last' now"]
    told = job("--set", "tokenize.train_on=last")
    assert states(told) == {"ingest": "done", "tokenize": "changed", "pack": "changed"}
    assert read_manifest(folder / "tokenized").config["train_on"] == "last"
    assert {name: digest for name, digest in tree(folder).items() if name.startswith("ingested")} == {
        name: digest for name, digest in before.items() if name.startswith("ingested")
    }
    job()
    assert tree(folder) == before


def test_a_killed_job_continues_to_the_same_bytes(job: Job, file: Path, tree: Tree, tmp_path: Path) -> None:
    job()
    whole = tree(tmp_path / "job")
    for stage in ("ingested", "tokenized", "packed"):
        other = tmp_path / f"killed-{stage}"
        line = [sys.executable, "-m", "vlm_prep.cli.main", "run", str(file), "--set", f"out={other}", "-q"]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, start_new_session=True)
        while not (other / stage).exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        job("--set", f"out={other}")
        made = {name: digest for name, digest in tree(other).items() if not name.endswith((".yaml", "origin.json"))}
        assert made == {name: whole[name] for name in made} and len(made) > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "ingest.limit=0"], "expected a number of 1 or more"),
        (["--set", "pack.pack_lenth=9"], "Did you mean 'pack_length'"),
        (["--set", "tokenize.part=1/2"], "part is of one stage"),
        (["--set", "ingest.work_dir=x"], "work_dir has no meaning for an out that is a folder"),
        (["--set", "ingest.out=rows.jsonl", "--set", "ingest.source=rows.jsonl"], "error"),
        (["--set", "out=null"], "out: FOLDER"),
    ],
)
def test_what_is_wrong_anywhere_in_a_job_is_said_before_it_begins(job: Job, words: list[str], message: str) -> None:
    said = job(*words, status=2)[0]["error"]
    assert message in said
    # the file has no flags, and `run` has none of these
    assert not [word for word in said.split() if word.startswith("--") and word != "--set"]


def test_where_nothing_is_to_do_the_processor_is_loaded_by_the_workers_alone(job: Job, file: Path) -> None:
    job()
    script = (
        "import sys\nfrom vlm_prep.cli.main import main\nsys.argv = sys.argv[1:]\ntry:\n    main()\n"
        "finally:\n    sys.exit('transformers' in sys.modules or 'torch' in sys.modules)"
    )
    line = [sys.executable, "-c", script, "vlm-prep", "run", str(file), "--quiet"]
    assert subprocess.run(line, check=True, capture_output=True, text=True).stdout.count("done before") == 3


def test_too_many_rejects_stop_a_job_and_show_what_was_done(job: Job, tmp_path: Path) -> None:
    told = job("--set", "tokenize.max_length=40", status=3)
    assert [each["stage"] for each in told] == ["ingest", "tokenize"]
    assert told[1]["rows_rejected"] == 6
    assert not (tmp_path / "job" / "packed").exists()


def test_a_job_that_stopped_says_what_did_not_begin_and_what_goes_on(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, status: int) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["vlm-prep", "run", str(file), "--set", "tokenize.max_length=260", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == status
        return (told := capsys.readouterr()).out, told.err

    table, said = run("--quiet", status=3)
    assert [line.split()[:2] for line in table.splitlines()] == [
        ["stage", "state"],
        ["ingest", "made"],
        ["tokenize", "made"],
    ]
    assert f"pack did not begin: with a higher tokenize.max_reject_rate in {file} run goes on" in said
    table, _ = run("--quiet", "--set", "tokenize.max_reject_rate=1", status=0)
    assert [[line.split()[0], "done before" in line] for line in table.splitlines()[1:]] == [
        ["ingest", True],
        ["tokenize", True],
        ["pack", False],
    ]
