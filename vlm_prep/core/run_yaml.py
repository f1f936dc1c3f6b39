"""The settings of a run as YAML, which `--config` of the same command reads back: `--print-config` and run.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vlm_prep.core.fields import ReadsFile, Setting, Settings, read_annotation, settings_of
from vlm_prep.core.fingerprint import digest_bytes

CODE = frozenset(("trust_remote_code", "row_hook", "token_hook"))
"""Settings by which code runs: said anew each time, never by a store."""


def run_yaml(head: str, values: Iterable[tuple[Setting, Any]]) -> str:
    """Return settings as YAML, a comment over each group; None is left out, as in a run file that does not name it."""
    lines = [f"# {head}\n"]
    title: str | None = None
    for setting, value in values:
        if value is not None:
            heading = getattr(setting.group, "title", None)
            lines += [f"\n# {heading}\n"] if heading not in (None, title) else []
            title = heading
            lines.append(_line(setting.name, {"text": value} if setting.note(ReadsFile) else value))
    return "".join(lines)


def stored_run(stage: str, named: Mapping[str, str | None], *groups: Settings) -> str:
    """Return what a finished store keeps as run.yaml: `vlm-prep STAGE --config run.yaml` makes the store again.

    Args:
        stage: the command.
        named: source and processor. A path is absolute or starts from the store.
        groups: all other settings that shape the store.
    """
    head = f"vlm-prep {stage} --config run.yaml --out FOLDER makes this store again"
    own = ((read_annotation(name, str), value) for name, value in named.items())
    grouped = (
        (each, getattr(group, each.name))
        for group in groups
        for each in settings_of(type(group))
        if each.name not in CODE
    )
    return sealed_text(run_yaml(head, (*own, *grouped)))


def sealed_text(text: str) -> str:
    """Return a file's text with a last line that holds its checksum."""
    return f"{text}# {digest_bytes(text.encode())}\n"


def is_unchanged(content: bytes) -> bool:
    """Whether a file is as `sealed_text` returned it."""
    text, _, seal = content.rpartition(b"# ")
    return seal.decode(errors="replace") == f"{digest_bytes(text)}\n"


def _line(name: str, value: Any) -> str:
    plain = str(value) if isinstance(value, Path) else value
    return str(yaml.safe_dump({name: plain}, allow_unicode=True, sort_keys=False, width=10_000))
