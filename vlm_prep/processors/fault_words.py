"""What a processor raised, in words: what its author wrote for a reader, or where its code failed.

Names of exceptions and what interpreters say of objects mean nothing to who prepares data; whose code failed does.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

_MOST = 300
_NEEDED = re.compile(r"requires (?:the )?(\S+) library")
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_ASKED = re.compile(r"__call__\(\) missing \d+ required [\w-]+ arguments?: (.*)")
_WRITTEN = re.compile(r"\b(raise|assert)\b")
_OF_MACHINES = (AttributeError, LookupError, NameError, TypeError, ArithmeticError, StopIteration)
"""Raised of code that does not fit what it is given, with words for its author."""


def said(error: BaseException) -> str:
    """Return what a library's error says, on one line."""
    line = " ".join(str(error).split())[:_MOST]
    if isinstance(error, ImportError):
        needed = _NEEDED.search(line)
        name = needed[1] if needed else error.name
        return f"it needs {name}, which is not installed" if name else line or "something that it imports is missing"
    if isinstance(error, TypeError) and (unknown := _UNKNOWN.search(line)):
        return f"its code takes no `{unknown[1]}`"
    if isinstance(error, TypeError) and (asked := _ASKED.search(line)):
        return f"its call asks for {asked[1].replace(chr(39), '`')}, which no chat gives"
    frames = traceback.extract_tb(error.__traceback__)
    if line and not isinstance(error, _OF_MACHINES) and (not frames or _is_raised(error, frames[-1].line or "raise")):
        return line
    return f"its code fails{_place(frames)}"


def _is_raised(error: BaseException, statement: str) -> bool:
    """Whether somebody wrote the message: it is raised by a statement, or by a chat template."""
    import jinja2

    return bool(_WRITTEN.search(statement)) or isinstance(error, jinja2.TemplateError | OSError)


def _place(frames: traceback.StackSummary) -> str:
    files = [(Path(frame.filename).name, frame.lineno) for frame in frames]
    if not files:
        return ""
    of_processors = [each for each in files if "process" in each[0] or "feature_extract" in each[0]]
    name, line = (of_processors or files)[-1]
    return f" in a chat template, line {line}" if name.startswith("<template") else f" in {name}, line {line}"
