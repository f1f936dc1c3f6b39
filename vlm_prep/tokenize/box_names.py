"""What boxes and points are of, as the text around them says it: names for people, which `view` draws beside them.

    {"bbox_2d": [...], "label": "a cat"}         of the object it stands in: `label`, `text_content` or `name`
    <ref>a cat</ref><box>...</box>, <box>...     the name right before it, also of several boxes one after the other
    <ref-object> at <bbox>                       of `objects` in other text: the name that was placed last before it

A name never changes what is trained. Where the text says none there is none: words near a box may be of anything.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

OPEN, CLOSE = "\ue0b0", "\ue0b1"
"""Around a mark: `X` (x, the first of a box or point), `x` or `y`, the media's place, its share, and behind `X` the
name in hexadecimal, so that nothing of it acts in the text."""
MARK: Final = re.compile(f"{OPEN}([Xxy])(\\d+):([^:{CLOSE}]*)(?::([0-9a-f]*))?{CLOSE}")
_MOST: Final = 200
"""Characters of a name that are kept."""
_NEAR: Final = 4000
"""Characters before and behind a box within which its object begins and ends."""
_BRACES: Final = 16
_KEYS: Final = ("label", "text_content", "name")
_REF: Final = f"(?:<ref>|<\\|object_ref_start\\|>)(.{{0,{_MOST}}}?)(?:</ref>|<\\|object_ref_end\\|>)"
_KEY: Final = r"""(["'](?:bbox_2d|point_2d)["'])\s*:"""
_TAG: Final = r"</?(?:box|point)>|<\|(?:box|point)_(?:start|end)\|>"
_STEP: Final = re.compile(f"{_REF}|{_KEY}|{_TAG}|({OPEN}[^{CLOSE}]*{CLOSE})", re.DOTALL)
_BETWEEN: Final = re.compile(r"[\s,()\[\]]*")
_TOKEN: Final = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[{}\[\]]""", re.DOTALL)
_VALUE: Final = re.compile(r"""\s*:\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')?""", re.DOTALL)


def first_mark(place: int, share: float, name: str) -> str:
    """Return the mark that begins a box or point of that name."""
    said = name[:_MOST].encode(errors="replace").hex()
    return f"{OPEN}X{place}:{share!r}{':' + said if said else ''}{CLOSE}"


def name_of(mark: re.Match[str]) -> str:
    """Return the name of the box or point that a mark begins; empty where it has none."""
    return bytes.fromhex(mark[4]).decode() if mark[4] else ""


def with_names(text: str) -> str:
    """Return a text with the names of its boxes and points in their marks."""
    if OPEN not in text:
        return text
    name, behind, made, done = "", 0, [], 0
    for step in _STEP.finditer(text):
        ref, key, mark = step[1], step[2], step[3]
        if ref is not None:
            name = ref.strip()
        elif key is not None:
            name = _name_in_object(text, step.start())
        elif not _BETWEEN.fullmatch(text, behind, step.start()):
            name = ""
        behind = step.end()
        if mark is not None and name and (found := MARK.fullmatch(mark)) and found[1] == "X":
            made += [text[done : step.start()], first_mark(int(found[2]), float(found[3]), name)]
            done = behind
    return "".join([*made, text[done:]])


def _name_in_object(text: str, key: int) -> str:
    """Return the name that the innermost object in which a key stands gives; empty where that is not told."""
    brace, least = key, max(0, key - _NEAR)
    for _ in range(_BRACES):
        brace = text.rfind("{", least, brace)
        if brace < 0:
            return ""
        names = _texts_of(text, brace, key)
        if names is not None:
            return next((names[each] for each in _KEYS if names.get(each)), "")
    return ""


def _texts_of(text: str, brace: int, key: int) -> dict[str, str] | None:
    """Return the members of an object that are texts; None unless it is one, and the key is one of its own.

    A brace inside of a text begins none: seen from there the quotes of the key are the others' ends.
    """
    found: dict[str, str] = {}
    depth, has_key = 0, False
    end = key + _NEAR
    at = brace
    while token := _TOKEN.search(text, at, end):
        at = token.end()
        said = token[0]
        if said in "{[":
            depth += 1
        elif said in "}]":
            depth -= 1
            if depth == 0:
                return found if has_key else None
        elif depth == 1 and (value := _VALUE.match(text, at, end)):
            has_key |= token.start() == key
            at = value.end()
            if value[1] is not None:
                found[said[1:-1]] = _read(value[1])
    return None


def _read(quoted: str) -> str:
    """Return a text in quotes without them."""
    if quoted[0] == '"':
        try:
            return str(orjson.loads(quoted))
        except orjson.JSONDecodeError:  # with line breaks, or escapes that JSON has not
            pass
    return quoted[1:-1].replace("\\'", "'").replace('\\"', '"').replace("\\\\", "\\")
