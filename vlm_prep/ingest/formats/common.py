"""Columns of a row, types of values, and the options of a message: what every format asks a row for.

A value of the wrong type rejects the row. Values are never converted: `str(3)` or a list joined to a text
would be trained on without anyone having seen it. A JSON null counts as absent, since exports of columnar
data fill every missing key with one.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.row_json import RepeatedKeyError, RowJsonError, parse_row
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.embedded import EmbeddedBytes
from vlm_prep.ingest.formats.noticed import Noticed, is_empty, is_nan, unread_key
from vlm_prep.ingest.spec import ROLE_NAMES, DatasetSpec

Row = dict[str, Any]

_LARGEST = sys.float_info.max
REASONING_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
REASONING_DETAILS: Final = "reasoning_details"
"""OpenRouter's list of the pieces of a message's reasoning."""
_LARGEST_WEIGHT = 1e6
_PAIRS: Final = ({"role", "content"}, {"from", "value"})
_TAGS: Final = {name: tag for tag, names in ROLE_NAMES.items() for name in names}
_WEIGHT_KEYS: Final = ("loss", "loss_weight", "weight", "loss_scale")
_FLAG_KEYS: Final = (
    *("loss_mask", "train_on_turn", "training"),
    *("trainable", "is_trainable", "calculate_loss", "compute_loss"),
)
TRAINING_KEYS: Final = ("train", *_WEIGHT_KEYS, *_FLAG_KEYS)
"""Whether or how strongly a message is trained: ours, and the names of ms-swift, axolotl, XTuner and OpenAI."""
_TRAINING: Final = frozenset(TRAINING_KEYS)
_OTHER_TOOLS: Final = frozenset(("loss_scale", *_FLAG_KEYS))


def column(row: Row, spec: DatasetSpec, role: str, noticed: Noticed) -> Any:
    """Return the row's value for a column role, or None where it has none.

    Raises:
        Reject: BAD_ROW, two columns that the role may go by hold different things.
    """
    names = [name for name in spec.column_names(role) if name in row]
    if len(names) < 2:
        return row[names[0]] if names else None
    filled = [name for name in names if not is_empty(row[name])]
    for other in filled[1:]:
        if row[other] != row[filled[0]] and not _say_the_same(row[other], row[filled[0]]):
            both = " and ".join(f"{name!r} ({excerpt(row[name])})" for name in (filled[0], other))
            raise Reject(
                RejectReason.BAD_ROW, f"the columns {both} are both filled and differ; name one with columns.{role}"
            )
        noticed.note("read_doubles")
    return row[(filled or names)[0]]


def _say_the_same(one: Any, other: Any) -> bool:
    """Whether two columns hold one plain conversation in two spellings (`role` and `content`, `from` and `value`)."""
    said = _said(one)
    return said is not None and said == _said(other)


def _said(turns: Any) -> list[tuple[str, str]] | None:
    found = []
    for turn in turns if isinstance(turns, list) else [None]:
        if not isinstance(turn, dict) or turn.keys() not in _PAIRS:
            return None
        role, text = (
            next(turn[key] for key in keys if key in turn) for keys in (("role", "from"), ("content", "value"))
        )
        if not isinstance(text, str) or not isinstance(role, str) or role.lower() not in _TAGS:
            return None
        found.append((_TAGS[role.lower()], text))
    return found


def required_column(row: Row, spec: DatasetSpec, role: str, noticed: Noticed) -> Any:
    """Return the row's value for a column role; null counts as a value.

    Raises:
        Reject: MISSING_COLUMN, with the columns that the row has.
    """
    names = spec.column_names(role)
    if not any(name in row for name in names):
        has = ", ".join(excerpt(name) for name in list(row)[:20]) or "none"
        wanted = " or ".join(repr(name) for name in names)
        raise Reject(RejectReason.MISSING_COLUMN, f"no column {wanted} (columns.{role}); the row has {has}")
    return column(row, spec, role, noticed)


def text(value: Any, what: str) -> str:
    """Return `value` when it is a string.

    Raises:
        Reject: BAD_TYPE.
    """
    if not isinstance(value, str):
        # 1.0 or 1, true or True: it is not ours to say how it is written
        hint = "; write it as a text" if isinstance(value, int | float) else ""
        raise Reject(RejectReason.BAD_TYPE, f"{what} is {shown(value)}, not a string{hint}")
    return str(value)  # an `EmbeddedText` becomes the text it is


def parsed_list(value: Any, what: str, noticed: Noticed, *, lenient: bool) -> Any:
    """Return a list that is written as JSON text in its column (UniMM-Chat, CSV files), or twice so; else the value.

    Raises:
        Reject: BAD_JSON or DUPLICATE_KEY; `what` begins the message.
    """
    is_text = isinstance(value, str) and value.lstrip().startswith(("[", '"['))
    return parsed_json(value, what, noticed, lenient=lenient) if is_text else value


def parsed_json(written: str, what: str, noticed: Noticed, *, lenient: bool) -> Any:
    """Return what JSON text in a column holds. Raises as `parsed_list`."""
    try:
        found, notes = parse_row(written.encode(), lenient=lenient)
    except RepeatedKeyError as error:
        raise Reject(RejectReason.DUPLICATE_KEY, f"{what}: {error}") from error
    except (RowJsonError, UnicodeEncodeError) as error:
        raise Reject(RejectReason.BAD_JSON, f"{what} no JSON as text: {error}; {excerpt(written)}") from error
    noticed.notes |= notes | {"read_json_text"}
    return found


def type_name(value: Any) -> str:
    """Name a value's type as JSON does."""
    names = {type(None): "null", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    names[EmbeddedBytes] = "bytes"
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def shown(value: Any) -> str:
    """Name a value's type and show the value, for messages."""
    return type_name(value) if value is None else f"{type_name(value)} ({excerpt(value)})"


def training_options(item: Row, where: str, noticed: Noticed) -> dict[str, Any]:
    """Return whether a message or part says that it is trained on, and with which weight: `train`, `weight`.

    A weight of 0 or 1 is a plain `train`; where nothing is said, nothing is returned.

    Raises:
        Reject: BAD_TYPE, a weight that is no finite number from 0 up, or options that contradict each other.
    """
    if _TRAINING.isdisjoint(item):
        return {}
    given = [key for key in TRAINING_KEYS if not (item.get(key) is None or is_nan(item[key]) or key in noticed.ignored)]
    if not given:
        return {}
    weights = {key: _as_weight(item[key], f"{where}: {key}") for key in given if key in _WEIGHT_KEYS}
    flags = {key: _as_flag(item[key], f"{where}: {key}", key) for key in given if key not in _WEIGHT_KEYS}
    trained = {*flags.values(), *(weight > 0 for weight in weights.values())}
    if len(set(weights.values())) > 1 or len(trained) > 1:
        said = " and ".join(f"{key} ({excerpt(item[key])})" for key in given)
        raise Reject(RejectReason.BAD_TYPE, f"{where}: {said} contradict each other; `ignore_keys` leaves one out")
    if not _OTHER_TOOLS.isdisjoint(given):
        noticed.note("read_training_keys")
    options: dict[str, Any] = {"train": trained.pop()}
    for weight in weights.values():
        if weight not in (0, 1):
            options["weight"] = weight
    return options


def _as_flag(value: Any, what: str, key: str) -> bool:
    if isinstance(value, bool):
        return value
    if key != "train" and value in (0, 1) and isinstance(value, int | float):
        return value == 1
    raise Reject(RejectReason.BAD_TYPE, f"{what} is {shown(value)}, not true or false")


def _as_weight(weight: Any, what: str) -> float:
    if not isinstance(weight, int | float):
        raise Reject(RejectReason.BAD_TYPE, f"{what} is {shown(weight)}, not a number")
    if not 0 <= weight <= _LARGEST_WEIGHT:
        raise Reject(RejectReason.BAD_TYPE, f"{what} is {weight}, not a number from 0 to {_LARGEST_WEIGHT:g}")
    return float(weight)


def reasoning(message: Row, role: str, where: str, noticed: Noticed) -> str | None:
    """Return an assistant message's reasoning, or None.

    Raises:
        Reject: BAD_TYPE, it is not a string; BAD_ROW, it is not an assistant's, or is given as two texts; UNREAD_KEY,
            it is not readable.
    """
    given = {key: text(message[key], f"{where}: {key}") for key in REASONING_KEYS if message.get(key) is not None}
    if not is_empty(pieces := message.get(REASONING_DETAILS)) and REASONING_DETAILS not in noticed.ignored:
        told = _told_pieces(pieces)
        if told is not None:
            given[REASONING_DETAILS] = told
        elif any(given.values()):
            noticed.unread.setdefault(f"message.{REASONING_DETAILS}", pieces)
        else:
            raise unread_key(where, REASONING_DETAILS, pieces, "holds reasoning that is no text (encrypted, a summary)")
    if not given:
        return None
    if role != "assistant":
        if any(given.values()):
            raise Reject(RejectReason.BAD_ROW, f"{where}: {next(iter(given))} in a {role} message")
        return None
    if len(set(given.values())) > 1:
        both = " and ".join(f"{key} ({excerpt(value)})" for key, value in given.items())
        raise Reject(RejectReason.BAD_ROW, f"{where}: {both} hold different texts; keep one")
    return next(iter(given.values()))


def _told_pieces(pieces: Any) -> str | None:
    """Return the text of `REASONING_DETAILS`; None where a piece is none."""
    texts = [
        piece.get("text") if isinstance(piece, dict) and piece.get("type") == "reasoning.text" else None
        for piece in (pieces if isinstance(pieces, list) else [None])
    ]
    return None if None in texts or not all(isinstance(each, str) for each in texts) else "".join(map(str, texts))


def is_positive_number(value: Any) -> bool:
    """Return whether a value is a finite number above 0; true and false are not numbers."""
    # compared and not converted: an int may be too large for a float
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LARGEST
