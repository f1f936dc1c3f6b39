"""Formats of rows from outside the package: named, recognised, held to what a row is, and part of what a store is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm_prep.builtin import builtin_data
from vlm_prep.cli.main import app
from vlm_prep.core.errors import InputError
from vlm_prep.ingest import format_packages
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest

MODULE = '''\
"""Rows of a quiz: {"ask": ..., "right": ..., "shot": a picture's path}."""
from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.ingest.formats import messages

columns = ("ask", "right", "shot")

def recognises(row):
    return row.keys() >= {"ask", "right"}

def to_sample(row, spec, place, noticed):
    if row["right"] == "?":
        raise Reject(RejectReason.NOT_WANTED, "nobody knows")
    asked = [{"type": "image", "image": row["shot"]}] if "shot" in row else []
    chat = [
        {"role": "user", "content": [*asked, {"type": "text", "text": row["ask"]}]},
        {"role": "assistant", "content": row["right"]},
    ]
    return messages.to_sample({"messages": chat}, spec, place, noticed)
'''
ENTRY = "[vlm_prep.formats]\n{} = {}\n"
METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"
PROCESSOR = ("-p", "builtin:qwen2.5-vl-mini")
ROWS: tuple[dict[str, Any], ...] = (
    {"ask": "Which <image> is it?", "right": "This one.", "shot": "photos/coffee.jpg", "id": 7},
    {"ask": "And?", "right": "No picture.", "score": 3},
    {"ask": "Why?", "right": "?"},
    {"ask": "How?"},
)


def install(folder: Path, code: str, *, name: str = "quiz", package: str = "quiz-rows", version: str = "1.0") -> None:
    """What `pip install` leaves of a package of 25 lines."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    about = folder / f"{module}-1.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(METADATA.format(package, version))
    (about / "entry_points.txt").write_text(ENTRY.format(name, module))


def forget() -> None:
    """As in a process of its own."""
    for name in ("quiz_rows", "other_rows"):
        sys.modules.pop(name, None)
    format_packages._points.cache_clear()
    format_packages._loaded.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, quiz-rows among them."""
    assert len((MODULE + ENTRY + METADATA).splitlines()) <= 25
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, MODULE)
    monkeypatch.syspath_prepend(folder)
    forget()
    yield folder
    forget()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    media = builtin_data().parent / "photos"
    shown = [{**row, **({"shot": str(media / "coffee.jpg")} if "shot" in row else {})} for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in shown))
    return path


def call(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def test_its_rows_are_recognised_by_every_command_and_proved(
    site: Path, rows: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    store = tmp_path / "tok"
    line = ("tokenize", rows, *PROCESSOR, "--out", store, "--workers", 2, "--max-reject-rate", 1)
    done = command(*line, env={**os.environ, "PYTHONPATH": os.pathsep.join((str(site), *filter(None, sys.path)))})
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(store)
    (about,) = manifest.extra["datasets"]
    assert (about["format"], about["format_from"][0]) == ("quiz", "quiz-rows 1.0")
    assert manifest.totals["unread_keys"] == {"rows": {"row.score": {"rows": 1, "example": "3"}}}
    assert [(each["line"], each["reason"]) for each in read_rejects(store)] == [(3, "not_wanted"), (4, "hook_error")]
    assert "format quiz of quiz-rows 1.0: KeyError" in read_rejects(store)[1]["message"]
    assert "1 of 1 image, 1 of 1 text rows equal" in call("stats", store)
    assert call("verify", store, *PROCESSOR).endswith("sound\n")
    assert "nothing changed" in call("why", store)
    assert "format quiz of quiz-rows 1.0" in call("explain", rows, 0, *PROCESSOR)
    call("init", rows, "--file", tmp_path / "job.yaml", *PROCESSOR)
    assert "# format: quiz, as its first row shows" in (tmp_path / "job.yaml").read_text()
    assert "This one." in call("labels", rows, *PROCESSOR)
    assert call("plan", rows, *PROCESSOR)


def test_another_version_or_source_of_it_is_another_run_and_an_update_reads_its_rows_again(
    site: Path, rows: Path, tmp_path: Path
) -> None:
    store = tmp_path / "tok"
    line = ("tokenize", rows, *PROCESSOR, "--out", store, "--max-reject-rate", 1, "--update")
    call(*line)
    assert "update     nothing to do" in call("why", store)
    install(site, MODULE.replace("nobody knows", "not known"))
    forget()
    assert "format_from.1" in (said := call("why", store, status=1)) and "4 changed" in said
    call(*line)
    assert [each["message"] for each in read_rejects(store)][:1] == ["not known"]
    install(site, MODULE.replace("nobody knows", "not known"), version="1.1")
    forget()
    assert "'quiz-rows 1.0' then, 'quiz-rows 1.1' now" in call("why", store, status=1)


def test_without_recognises_it_is_its_name_alone(site: Path, rows: Path) -> None:
    install(site, MODULE.replace("def recognises", "def recognised"))
    forget()
    with pytest.raises(InputError, match="none of the first 4 rows"):
        open_samples(rows)
    (about,) = open_samples(rows, format="quiz").describe()
    assert about["format"] == "quiz"
    with pytest.raises(InputError, match="unknown format 'quizz'") as caught:
        open_samples(rows, format="quizz")
    assert "quiz" in str(caught.value.hint) and "Did you mean" in str(caught.value.hint)


def test_what_the_user_says_comes_first(site: Path, rows: Path) -> None:
    columns = {"instruction": "ask", "output": "right"}
    for samples in (open_samples(rows, format="alpaca", columns=columns), open_samples(rows, columns=columns)):
        assert samples.describe()[0]["format"] == "alpaca"
    with pytest.raises(InputError, match=r"columns \(images\) mean nothing to format quiz of quiz-rows 1\.0"):
        open_samples(rows, format="quiz", columns={"images": "shot"})
    with pytest.raises(InputError, match="and a mapping both say"):
        open_samples(rows, format="quiz", turns=["user={ask}", "assistant={right}"])


def test_rows_that_our_own_reading_would_take_are_its_own_and_pass_the_proof(site: Path, tmp_path: Path) -> None:
    code = """
from vlm_prep.ingest.formats import messages
columns = ("messages",)
def recognises(row): return "messages" in row
def to_sample(row, spec, place, noticed):
    turns = [{**turn, "content": turn["content"].upper()} for turn in row["messages"]]
    return messages.to_sample({"messages": turns}, spec, place, noticed)
"""
    install(site, code)
    forget()
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "an <image>?"}, {"role": "assistant", "content": "loud"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    call("tokenize", path, *PROCESSOR, "--out", tmp_path / "tok", "--verify-fraction", 1)
    (named,) = open_samples(path, format="quiz").read(0, 1)
    (found,) = open_samples(path).read(0, 1)
    assert named == found and "AN <IMAGE>?" in str(found)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", "format quiz of quiz-rows 1.0 does not load: ModuleNotFoundError"),
        ("columns = ('a',)", "does not load: AttributeError"),
        ("columns = 'ask'\ndef to_sample(*given): ...", "is none: columns is"),
        (MODULE.replace("row.keys() >=", "row.nothing >="), "fails at the first row of rows.jsonl: AttributeError"),
    ],
)
def test_a_broken_one_is_one_message_and_naming_the_format_goes_past_it(
    code: str, said: str, site: Path, rows: Path
) -> None:
    install(site, code)
    forget()
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        open_samples(rows)
    assert open_samples(rows, format="alpaca", columns={"instruction": "ask", "output": "right"})


def test_names_are_one_packages(site: Path, rows: Path) -> None:
    install(site, MODULE, package="other-rows", name="riddle")
    forget()
    with pytest.raises(InputError, match="each take its rows for their own") as caught:
        open_samples(rows)
    assert "`format=" in str(caught.value.hint) and open_samples(rows, format="riddle")
    for name, whose in (("quiz", r"(quiz|other)-rows 1\.0"), ("sharegpt", "vlm-prep itself")):
        install(site, MODULE, package="other-rows", name=name)
        forget()
        with pytest.raises(InputError, match=f"adds a format {name}, which {whose} has, too"):
            open_samples(rows)


SAMPLE = """
from dataclasses import replace
from vlm_prep.core.records import Media
from vlm_prep.ingest.formats import messages
columns = ("ask", "right", "shot")
def recognises(row): return True
def to_sample(row, spec, place, noticed):
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    made = messages.to_sample({"messages": chat}, spec, place, noticed)
    return %s
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("None", "null, not a Sample"),
        ("[row['nothing']]", "KeyError"),
        ("replace(made, sample_id='rows/9')", "the sample of another row"),
        ("replace(made, messages=[{'role': 'user', 'content': 'text'}])", "messages that are none"),
        ("replace(made, messages=[{'role': 'owl', 'content': []}])", "messages that are none"),
        ("replace(made, media=(Media(kind='image', uris=('/a.png',)),))", "as media image"),
        ("replace(made, media=(Media(kind='image', uris=('a.png',)),))", "media without a place"),
        ("replace(made, strings=(5,))", "strings"),
        ("replace(made, notes=('own_note',))", "notes or kept columns"),
        ("replace(made, tools=[{'a': object()}])", "cannot be written as JSON"),
        ("replace(made, messages=made.messages[:1], strings=())", "no message is the assistant's"),
    ],
)
def test_what_is_no_sample_of_its_row_is_that_rows_reject(given: str, said: str, site: Path, rows: Path) -> None:
    install(site, SAMPLE % given)
    forget()
    found = list(open_samples(rows).read(0, 2))
    assert all(said in getattr(each, "message", "") for each in found), found


def test_keys_with_a_meaning_that_it_does_not_read_reject_the_row(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"ask": "?", "right": "!", **more}) + "\n" for more in ({}, {"rejected": "x"})))
    assert [getattr(each, "reason", None) for each in open_samples(path).read(0, 2)] == [None, "unread_key"]
    install(site, MODULE.replace('"shot")', '"shot", "rejected")'))
    forget()
    assert [getattr(each, "reason", None) for each in open_samples(path).read(0, 2)] == [None, None]
