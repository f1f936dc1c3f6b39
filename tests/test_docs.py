"""README and docs say what is true: links lead somewhere, commands exist, those on built-in data run.

A block of commands runs when all it needs is the built-in data, or what an earlier block of its page made; the others
(a user's own files, a bucket, a cluster) are read by the command line's parser alone.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import vlm_prep as vp
from vlm_prep import stream
from vlm_prep.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_ELSEWHERE = re.compile(
    r"s3://|/shared/|--engine ray|(?<![\w/])meta\.json|speech_dataset|my_\w+|preset:|hf:|array_task|\$", re.IGNORECASE
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each `vlm-prep` line."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "vlm-prep":
            yield words[1:]


ALL = [(page, words) for page in PAGES for block in blocks(page, "bash") for words in commands(block)]


def runs(block: str) -> bool:
    found = list(commands(block))
    return bool(found) and not _ELSEWHERE.search(block) and all(words[0] not in {"push", "pull"} for words in found)


RUN = [page for page in PAGES if any(runs(block) for block in blocks(page, "bash"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda value: value.name if isinstance(value, Path) else value[0])
def test_commands_exist_with_their_options(page: Path, words: list[str]) -> None:
    command = typer.main.get_command(main.app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page.name}: vlm-prep {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context("vlm-prep", list(words))


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_on_builtin_data_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vlm_prep", "configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    for block in blocks(page, "bash"):
        if not runs(block):
            continue
        for words in commands(block):
            if words[0] == "demo":
                continue  # tests/cli runs it
            result = runner.invoke(main.app, words)
            assert result.exit_code == 0, f"vlm-prep {shlex.join(words)}: {result.output} {result.exception!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_are_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def test_every_command_stands_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in typer.main.get_command(main.app).commands if f"vlm-prep {name}" not in text]  # type: ignore[attr-defined]
    assert missing == []


def test_every_exported_name_stands_in_the_reference() -> None:
    listed = set(
        re.findall(r"^::: (vlm_prep\.\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    for package in (vp, stream):
        for name in set(package.__all__) - {"__version__"}:
            found = getattr(package, name)
            found = getattr(found, "function", found)  # a step's folder is the step
            assert f"{found.__module__}.{found.__qualname__}" in listed, name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
