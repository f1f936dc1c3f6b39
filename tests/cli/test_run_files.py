"""Run files: settings under version control, read back exactly, refused with file and line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import doctor, explain, flags, ingest, labels, main, merge, pack, plan, tokenize, view
from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import SourceConfig, TokenizeConfig

PROCESSOR = "builtin:qwen2.5-vl-mini"
Tree = Callable[[Path], dict[str, str]]

FULL = """\
source: data/rows.jsonl     # from this file's folder
processor: builtin:qwen2.5-vl-mini
out: out
format: messages
columns: {messages: talk}
min_duration: 1
max_length: 4096
train_on: last
train_reasoning: false
processor_args:
  do_resize: true
workers: 2
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text)
    return file


def asked(file: Path, *more: str) -> dict[str, Any]:
    return flags.read(tokenize.command, ["--config", str(file), *more])


def refused(file: Path, *more: str) -> str:
    with pytest.raises(InputError) as found:
        asked(file, *more)
    return f"{found.value.message}\n{found.value.hint}"


def test_a_run_file_says_what_flags_say(tmp_path: Path) -> None:
    by_file = asked(written(tmp_path, FULL))
    words = f"{tmp_path}/data/rows.jsonl --processor {PROCESSOR} --out {tmp_path}/out --format messages"
    words += " --column messages=talk --min-duration 1 --max-length 4096 --train-on last --no-train-reasoning"
    words += " --processor-arg do_resize=true --workers 2"
    assert by_file == flags.read(tokenize.command, words.split())


def test_a_flag_comes_before_the_file_and_a_set_before_both(tmp_path: Path) -> None:
    file = written(tmp_path, FULL)
    config = asked(file, "--max-length", "8", "--train-reasoning", "--set", "processor_args.size=2")["config"]
    assert config.max_length == 8 and config.train_reasoning
    assert config.processor_args == {"do_resize": True, "size": 2}
    config = asked(file, "--processor-arg", "do_resize=false", "--set", "columns.images=pics")["rows"]
    assert config.columns == {"messages": "talk", "images": "pics"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_lenght: 5\n", (":1:", "'max_lenght'", "Did you mean 'max_length'")),
        ("\n\nmax-length: 5\n", (":3:", "Did you mean 'max_length'")),
        ("max_length: many\n", (":1:", "max_length: expected a whole number, found 'many'")),
        ("max_length: 5.5\n", (":1:", "max_length: expected a whole number, found 5.5")),
        ("max_length: true\n", (":1:", "expected a whole number, found true")),
        ("train_reasoning: 1\n", (":1:", "train_reasoning: expected true or false, found 1")),
        ("format: 5\n", (":1:", "format: expected text, found 5")),
        ("source: x\ncolumns: talk\n", (":2:", "columns: expected keys and values, found 'talk'")),
        ("train_on: asistant\n", (":1:", "train_on: no value 'asistant'", "Did you mean 'assistant'")),
        ("max_length: 0\n", (":1:", "expected a number of 1 or more")),
        ("fps: .nan\n", (":1:", "expected a number above 0")),
        ("fps: 2\nfps: 3\n", (":2:", "fps stands already in line 1")),
        ("fps: [2\n", (":2:", "no YAML")),
        ("- fps\n", (":1:", "expected settings as `name: value`")),
        ("chat_template: gone.jinja\n", (":1:", "gone.jinja")),
        ("tokenize:\n  max_lenght: 5\n", (":2:", "under tokenize:", "Did you mean 'max_length'")),
        ("tokenize:\n  pack_length: 5\n", (":2:", "no setting is named 'pack_length' under tokenize:")),
        ("tokenize: 5\n", (":1:", "expected settings below it")),
        ("format: asr\ntokenize:\npack:\n", (":1:", "format is of several stages", "tokenize: or pack:")),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    told = refused(written(tmp_path, text))
    assert str(tmp_path / "run.yaml") in told
    for word in words:
        assert word in told


def test_what_is_wrong_in_a_set_is_said_with_its_key(tmp_path: Path) -> None:
    file = written(tmp_path, FULL)
    assert "`set` max_lenght: no setting is named 'max_lenght'" in refused(file, "--set", "max_lenght=5")
    assert "expected key=value" in refused(file, "--set", "max_length")
    assert "source has no keys" in refused(file, "--set", "source.x=1")


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    assert "gone.yaml" in refused(tmp_path / "gone.yaml")


def test_one_file_serves_all_commands_of_its_rows(tmp_path: Path) -> None:
    file = written(tmp_path, FULL)
    for command in (plan.command, labels.command, doctor.command, ingest.command):
        found = flags.read(command, ["--config", str(file)])
        for rows in (each for each in found.values() if isinstance(each, SourceConfig)):
            assert rows.columns == {"messages": "talk"}
        for config in (each for each in found.values() if isinstance(each, TokenizeConfig)):
            assert config.train_on == "last"


def test_paths_start_from_the_file_and_names_of_the_hub_do_not(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    text = "source: s3://bucket/a.jsonl\nprocessor: mine\nmedia_dir: ../pictures\nchat_template: own.jinja\n"
    found = asked(written(tmp_path, text))
    assert found["source"] == "s3://bucket/a.jsonl"
    assert found["processor"] == str(tmp_path / "mine")
    assert found["rows"] == SourceConfig(media_dir=str(tmp_path / "../pictures"))
    assert found["config"] == TokenizeConfig(chat_template="{{ messages }}")
    assert asked(written(tmp_path, text), "--processor", "org/model")["processor"] == "org/model"
    assert asked(written(tmp_path, "source: a\nprocessor: org/model"))["processor"] == "org/model"


JOB = """\
source: rows.jsonl
processor: builtin:qwen2.5-vl-mini
out: job
workers: 2
tokenize:
  max_length: 512
pack:
  pack_length: 1024
  format: webdataset
"""


def test_a_command_takes_its_section_of_a_job_and_reads_what_the_one_before_wrote(tmp_path: Path) -> None:
    file = written(tmp_path, JOB)
    tokenized = asked(file)
    assert tokenized["source"] == str(tmp_path / "rows.jsonl")
    assert tokenized["run"].out == str(tmp_path / "job/tokenized")
    packed = flags.read(pack.command, ["--config", str(file)])
    assert (packed["source"], packed["run"].out) == (str(tmp_path / "job/tokenized"), str(tmp_path / "job/packed"))
    assert packed["config"].format == "webdataset" and packed["run"].workers == 2
    assert flags.read(labels.command, ["--config", str(file)])["config"].max_length == 512


INGESTED_JOB = """\
source: rows.jsonl
processor: builtin:qwen2.5-vl-mini
out: job
ingest:
  media_dir: pictures
tokenize:
  max_pixels: 200704
  fps: 2
"""
LOOKS = (plan.command, labels.command, explain.command, view.command)


def test_commands_that_look_take_what_will_be_read_before_and_after_it_is_ingested(tmp_path: Path) -> None:
    words = ["--config", str(written(tmp_path, INGESTED_JOB))]

    def read(command: flags.CommandFunction) -> dict[str, Any]:
        return flags.read(command, [*words, *(["3"] if command is explain.command else [])])

    for command in LOOKS:
        found = read(command)
        rows = found.get("rows_config") or found["rows"]
        assert (found["source"], rows.media_dir) == (str(tmp_path / "rows.jsonl"), str(tmp_path / "pictures"))
        assert (found["config"].max_pixels, found["config"].fps) == (200_704, 2)
    assert read(explain.command)["row"] == "3"
    (tmp_path / "job" / "ingested").mkdir(parents=True)
    (tmp_path / "job" / "ingested" / "manifest.json").write_text("{}")
    for command in LOOKS:
        found = read(command)
        rows = found.get("rows_config") or found["rows"]
        assert (found["source"], rows.media_dir) == (str(tmp_path / "job" / "ingested"), None)


def test_where_a_job_writes_is_nothing_to_a_command_that_is_no_stage(tmp_path: Path) -> None:
    file = str(written(tmp_path, INGESTED_JOB))
    assert flags.read(view.command, ["--config", file])["out"] is None
    with pytest.raises(InputError, match="--out is missing"):
        flags.read(merge.command, ["a", "b", "--config", file])
    flat = str(written(tmp_path, FULL))
    assert flags.read(view.command, ["--config", flat])["out"] is None
    assert flags.read(merge.command, ["a", "b", "--config", flat])["out"] == tmp_path / "out"


def test_pixel_budgets_are_flags_and_those_of_a_file_are_the_rows(tmp_path: Path) -> None:
    file = str(written(tmp_path, INGESTED_JOB))
    found = flags.read(plan.command, ["--config", file, "--max-pixels", "50176", "--max-pixels", "100352"])
    assert (found["max_pixels"], found["config"].max_pixels) == ([50_176, 100_352], 200_704)
    assert flags.read(plan.command, ["--config", file, "--no-budgets"])["max_pixels"] is None


@pytest.mark.parametrize("command", [tokenize.command, plan.command, labels.command, ingest.command, pack.command])
def test_printed_settings_read_back_are_the_same(command: flags.CommandFunction, tmp_path: Path) -> None:
    name: str = command.name  # type: ignore[attr-defined]
    (tmp_path / "own.jinja").write_text("{{ messages }}\n  {#- two lines -#}\n")
    words = [str(tmp_path / "rows.jsonl")]
    of_pack = ["--pack-length", "9", "--media", "pixels"]
    words += of_pack if name == "pack" else ["--column", "messages=on", "--tag", "a=1"]
    if name not in ("pack", "ingest"):
        words += ["--processor", "org/model", "--fps", "2", "--processor-arg", 'size={"longest_edge": 9}']
        words += ["--chat-template", str(tmp_path / "own.jinja"), "--no-train-reasoning"]
    first = flags.read(command, words)
    file = written(tmp_path, flags.as_yaml(name, first))
    again = flags.read(command, ["--config", str(file)])
    assert again == first
    assert flags.as_yaml(name, again) == file.read_text()


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr(sys, "argv", ["vlm-prep", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


def test_a_store_holds_the_file_that_makes_it_again(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("tokenize", builtin_data(), "-p", PROCESSOR, "--dataset", "photo_talk", "--limit", 6, "--max-length", 900)
    assert call(monkeypatch, *line, "--out", tmp_path / "a", "-q") == 0
    again = ("tokenize", "--config", tmp_path / "a" / "run.yaml", "--out", tmp_path / "b", "-q")
    assert call(monkeypatch, *again) == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for stage, source in (("pack", "a"), ("ingest", builtin_data())):
        more = ("--pack-length", 1024) if stage == "pack" else ("--limit", 3)
        given = tmp_path / "a" if source == "a" else source
        assert call(monkeypatch, stage, given, *more, "--out", tmp_path / f"{stage}1", "-q") == 0
        config, out = tmp_path / f"{stage}1" / "run.yaml", tmp_path / f"{stage}2"
        assert call(monkeypatch, stage, "--config", config, "--out", out, "-q") == 0
        assert tree(tmp_path / f"{stage}1") == tree(tmp_path / f"{stage}2")
    capsys.readouterr()
    assert "trust_remote_code" not in (tmp_path / "a" / "run.yaml").read_text()
    assert call(monkeypatch, "why", tmp_path / "a") == 0
    words = ("why", tmp_path / "a", "--config", tmp_path / "a" / "run.yaml", "--set", "train_on=last")
    assert call(monkeypatch, *words) == 1
    assert "config.train_on: 'assistant' then, 'last' now" in capsys.readouterr().out


def test_print_config_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("tokenize", "gone.jsonl", "-p", "org/model", "--max-length", 5, "--print-config", "--out", tmp_path / "x")
    assert call(monkeypatch, *line) == 0
    told = capsys.readouterr().out
    assert "max_length: 5\n" in told and "# Labels and text\n" in told
    assert not (tmp_path / "x").exists()
