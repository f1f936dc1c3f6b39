"""docs/settings.md: every setting, from its annotation. `python -m vlm_prep.cli.settings_table` prints the page."""

from __future__ import annotations

import sys

from vlm_prep.cli import flags, main
from vlm_prep.core.fields import Flag, Setting, shown

HEAD = """\
# Settings

Every setting once: its name in run files and in Python, its flag, its default, and the commands that have it. A group
is a dataclass of `vlm_prep.core.settings` or `run_settings`. `vlm-prep COMMAND --help` shows the same. How to write
run files: [jobs](jobs.md).

This page is made by `python -m vlm_prep.cli.settings_table > docs/settings.md`; a test holds it.
"""
ORDER = ("ingest", "tokenize", "plan", "labels", "doctor", "pack", "finish", "retry")


def page() -> str:
    """Return the page."""
    found: dict[str, dict[str, tuple[Setting, list[str]]]] = {}
    commands = flags.in_files()
    ordered = [name for name in main.COMMANDS if name in commands]
    for name in sorted(ordered, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
        for setting in commands[name]:
            if setting.group is not None:
                title = f"{setting.group.title} (`{setting.group.__name__}`)"  # type: ignore[attr-defined]
                found.setdefault(title, {}).setdefault(setting.name, (setting, []))[1].append(name)
    lines = [HEAD]
    for title, settings in found.items():
        lines += [f"\n## {title}\n", "| setting | flag | default | what it does | commands |", "|---|---|---|---|---|"]
        lines += [_row(setting, names) for setting, names in settings.values()]
    return "\n".join(lines) + "\n"


def _row(setting: Setting, commands: list[str]) -> str:
    bare, _, default = setting.text.removesuffix("]").partition(" [default: ")
    if not default and setting.default not in (None, {}, []):
        default = shown(setting.default) if isinstance(setting.default, str | int | float) else "required"
    own = setting.note(Flag)
    flag = f"{setting.flag}, {own.short}" if own and own.short else setting.flag
    cells = [f"`{setting.name}`", f"`{flag}`", default, bare, ", ".join(commands)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.buffer.write(page().encode())
