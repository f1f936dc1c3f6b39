"""Alpaca rows: instruction, input and output columns, with earlier turns in history.

The row is written as messages and read by the rules of ShareGPT, placeholders included. `input` follows the
instruction, if that says anything, on a line of its own, as LLaMA-Factory joins them.
"""

from __future__ import annotations

from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Sample
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import Row, column, parsed_list, required_column, shown, text
from vlm_prep.ingest.formats.conversation import RowPlace, build_sample
from vlm_prep.ingest.formats.noticed import Noticed, is_empty
from vlm_prep.ingest.formats.row_turns import Dialect
from vlm_prep.ingest.spec import DatasetSpec

_DIALECT = Dialect(role_keys=("role",), content_keys=("content",), roles={"user": "user", "assistant": "assistant"})
_OTHER_NAMES: Final = {"instruction": "query", "query": "instruction"}
"""Columns that both hold a question, as one tool or another has it."""
_READ = ("instruction", "input", "output", "history")


def to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn an Alpaca row into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    question = text(required_column(row, spec, "instruction", noticed), "the instruction")
    _require_one_question(row, spec, noticed)
    answer = text(required_column(row, spec, "output", noticed), "the output")
    extra = column(row, spec, "input", noticed)
    if not is_empty(extra) and text(extra, "the input"):
        question = f"{question}\n{extra}" if question else str(extra)
    history = parsed_list(column(row, spec, "history", noticed), "the history is", noticed, lenient=spec.lenient_json)
    turns = [*_history(history), *_exchange(question, answer)]
    return build_sample(turns, row, spec, _DIALECT, place, noticed, _READ)


def _require_one_question(row: Row, spec: DatasetSpec, noticed: Noticed) -> None:
    """Refuse a row with a second question: how the two go together is not said.

    Raises:
        Reject: BAD_ROW.
    """
    name = spec.column_names("instruction")[0]
    other = _OTHER_NAMES.get(name, "")
    if other in noticed.ignored or other in spec.columns.values() or is_empty(row.get(other)):
        return
    if row[other] != row.get(name):
        both = " and ".join(f"{each!r} ({excerpt(row.get(each))})" for each in (name, other))
        how = f"`columns=input={other}` puts {other} behind it, `ignore_keys={other}` leaves it out"
        raise Reject(RejectReason.BAD_ROW, f"the columns {both} are both filled and differ; {how}")


def _history(value: Any) -> list[Row]:
    if is_empty(value):
        return []
    if not isinstance(value, list):
        raise Reject(RejectReason.BAD_TYPE, f"the history is {shown(value)}, not a list of pairs")
    turns: list[Row] = []
    for number, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Reject(RejectReason.BAD_TYPE, f"history {number} is {shown(pair)}, not a [question, answer] pair")
        question, answer = (text(side, f"history {number}") for side in pair)
        turns += _exchange(question, answer)
    return turns


def _exchange(question: str, answer: str) -> list[Row]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
