"""JSON that somebody else wrote, compared with the types that its reader declares.

The types are those of a `TypedDict` or of a dataclass that travels as JSON, so that each record is declared once, where
it is read. Tuples are lists in JSON, and taken as they are from what is about to be written; whole numbers
may stand for floats, truths for no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from vlm_prep.core.errors import StoreError

_WORDS = {dict: "table", list: "list", str: "text", bool: "truth", int: "whole number", float: "number"}


def require_typed(value: Any, kind: Any, where: str, *, some: bool = False) -> None:
    """Compare a value of JSON with a type.

    Args:
        value: of JSON.
        kind: a TypedDict, a dataclass, or what their fields may be: dict, Mapping, list, tuple, Literal, unions, str,
            int, float, bool, None, Any.
        where: what it is called in the error.
        some: whether keys of this table (not of tables in it) may be missing.

    Raises:
        ValueError: it is of another type; what and where is said.
    """
    if is_typeddict(kind) or is_dataclass(kind):
        _table(value, kind, where, some)
        return
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return
    if origin in (Union, UnionType):
        _one_of(value, inner, where)
    elif origin is Literal:
        _must(value in inner, where, f"is none of {', '.join(map(str, inner))}")
    elif origin is NoneType:
        _must(value is None, where, "is not null")
    elif origin in (dict, Mapping):
        _must(isinstance(value, dict), where, "is no table")
        for key, each in value.items() if inner else ():
            require_typed(each, inner[1], f"{where}.{key}")
    elif origin in (list, tuple):
        _elements(value, origin, inner, where)
    else:
        right = type(value) is origin or (origin is float and type(value) is int)
        _must(right and (origin is not float or math.isfinite(value)), where, f"is no {_WORDS[origin]}")


def require_record(value: Any, kind: Any, where: str) -> None:
    """Compare a table of a store with a type, see `require_typed`.

    Raises:
        StoreError: a field is missing, of another type, or one that it has not.
    """
    try:
        require_typed(value, kind, where)
    except ValueError as error:
        raise StoreError(f"the manifest says what it cannot: {error}", "make the store again") from error


def _table(value: Any, kind: Any, where: str, some: bool) -> None:
    _must(isinstance(value, dict), where, "is no table")
    known, needed = _fields(kind)
    if missing := sorted(needed - value.keys()) if not some else []:
        _must(False, where, f"has no {', '.join(missing)}")
    if is_dataclass(kind) and (strange := sorted(value.keys() - known)):
        _must(False, where, f"has {', '.join(map(repr, strange))[:80]}, which it cannot have")
    for key, each in value.items():
        if key in known:
            require_typed(each, known[key], f"{where}.{key}")


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of all fields, and the names of those that must be there."""
    hints = get_type_hints(kind, include_extras=True)
    known = {name: get_args(hint)[0] if get_origin(hint) is NotRequired else hint for name, hint in hints.items()}
    if is_dataclass(kind):
        return known, frozenset(
            each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING
        )
    return known, frozenset(name for name, hint in hints.items() if get_origin(hint) is not NotRequired)


def _one_of(value: Any, kinds: tuple[Any, ...], where: str) -> None:
    if value is None and NoneType in kinds:
        return
    last = len(kinds) - 1
    for number, kind in enumerate(kinds):
        try:
            require_typed(value, kind, where)
        except ValueError:
            if number == last or (number == last - 1 and kinds[last] is NoneType):
                raise
        else:
            return


def _elements(value: Any, origin: type, inner: tuple[Any, ...], where: str) -> None:
    if not isinstance(value, list | tuple):
        _must(False, where, "is no list")
    pair = origin is tuple and inner and inner[-1] is not Ellipsis
    _must(not pair or len(value) == len(inner), where, f"has not {len(inner)} entries")
    for number, each in enumerate(value) if inner else ():
        require_typed(each, inner[number] if pair else inner[0], f"{where}[{number}]")


def _must(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{where[:200]} {what}")
