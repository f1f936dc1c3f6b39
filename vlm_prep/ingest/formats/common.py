"""Columns of a row, types of values, and the options of a message: what every format asks a row for.

A value of the wrong type rejects the row. Values are never converted: `str(3)` or a list joined to a text
would be trained on without anyone having seen it. A JSON null counts as absent, since exports of columnar
data fill every missing key with one.
"""

from __future__ import annotations

import sys
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.ingest.spec import DatasetSpec

Row = dict[str, Any]

_LARGEST = sys.float_info.max
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_WEIGHT_KEYS = ("loss", "loss_weight", "weight")


def column(row: Row, spec: DatasetSpec, role: str) -> Any:
    """Return the row's value for a column role, or None where it has none.

    Raises:
        Reject: BAD_ROW, two columns that the role may go by both hold something.
    """
    filled = [name for name in spec.column_names(role) if row.get(name) not in (None, "", [])]
    if len(filled) > 1:
        raise Reject(
            RejectReason.BAD_ROW,
            f"the columns {filled[0]!r} and {filled[1]!r} are both filled; name one with columns.{role}",
        )
    present = filled or [name for name in spec.column_names(role) if name in row]
    return row[present[0]] if present else None


def required_column(row: Row, spec: DatasetSpec, role: str) -> Any:
    """Return the row's value for a column role; null counts as a value.

    Raises:
        Reject: MISSING_COLUMN, with the columns that the row has.
    """
    names = spec.column_names(role)
    if not any(name in row for name in names):
        has = ", ".join(repr(name) for name in list(row)[:20]) or "none"
        wanted = " or ".join(repr(name) for name in names)
        raise Reject(RejectReason.MISSING_COLUMN, f"no column {wanted} (columns.{role}); the row has {has}")
    return column(row, spec, role)


def text(value: Any, what: str) -> str:
    """Return `value` when it is a string.

    Raises:
        Reject: BAD_TYPE.
    """
    if not isinstance(value, str):
        raise Reject(RejectReason.BAD_TYPE, f"{what} is {type_name(value)}, not a string")
    return value


def type_name(value: Any) -> str:
    """Name a value's type as JSON does."""
    names = {type(None): "null", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def train_flag(message: Row, where: str) -> bool | None:
    """Return whether a message says that it is trained on; None where it says nothing.

    Raises:
        Reject: BAD_TYPE, a weight other than 0 and 1, or two options that contradict each other.
    """
    flags = {
        key: _as_flag(message[key], f"{where}: {key}") for key in _WEIGHT_KEYS if message.get(key) is not None
    }
    if (train := message.get("train")) is not None:
        if not isinstance(train, bool):
            raise Reject(RejectReason.BAD_TYPE, f"{where}: train is {type_name(train)}, not true or false")
        flags["train"] = train
    if len(set(flags.values())) > 1:
        raise Reject(RejectReason.BAD_TYPE, f"{where}: {' and '.join(flags)} contradict each other")
    return next(iter(flags.values()), None)


def _as_flag(weight: Any, what: str) -> bool:
    if not isinstance(weight, int | float):
        raise Reject(RejectReason.BAD_TYPE, f"{what} is {type_name(weight)}, not a number")
    if weight not in (0, 1):
        raise Reject(
            RejectReason.BAD_TYPE, f"{what} is {weight}; weights other than 0 and 1 are not supported yet"
        )
    return bool(weight)


def reasoning(message: Row, role: str, where: str) -> str | None:
    """Return an assistant message's reasoning, or None.

    Raises:
        Reject: BAD_TYPE, it is not a string; BAD_ROW, it is not an assistant's, or is given as two texts.
    """
    given = {
        key: text(message[key], f"{where}: {key}") for key in _REASONING_KEYS if message.get(key) is not None
    }
    if not given:
        return None
    if role != "assistant":
        if any(given.values()):
            raise Reject(RejectReason.BAD_ROW, f"{where}: {next(iter(given))} in a {role} message")
        return None
    if len(set(given.values())) > 1:
        raise Reject(RejectReason.BAD_ROW, f"{where}: {' and '.join(given)} hold different texts")
    return next(iter(given.values()))


def is_positive_number(value: Any) -> bool:
    """Return whether a value is a finite number above 0; true and false are not numbers."""
    # compared and not converted: an int may be too large for a float
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LARGEST
