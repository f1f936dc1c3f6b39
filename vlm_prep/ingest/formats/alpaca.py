"""Alpaca rows: instruction, input and output columns, with earlier turns in history.

The row is written as messages and read by the rules of ShareGPT, placeholders included. `input` follows the
instruction on a line of its own, as LLaMA-Factory joins them.
"""

from __future__ import annotations

from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats.common import Row, column, required_column, text, type_name
from vlm_prep.ingest.formats.conversation import Dialect, build_sample
from vlm_prep.ingest.spec import DatasetSpec

_DIALECT = Dialect(role_key="role", content_key="content", roles={"user": "user", "assistant": "assistant"})


def to_sample(row: Row, spec: DatasetSpec, *, sample_id: str, source: str, line: int) -> Sample:
    """Turn an Alpaca row into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    question = text(required_column(row, spec, "instruction"), "the instruction")
    answer = text(required_column(row, spec, "output"), "the output")
    extra = column(row, spec, "input")
    if extra is not None and text(extra, "the input"):
        question = f"{question}\n{extra}"
    turns = [*_history(column(row, spec, "history")), *_exchange(question, answer)]
    return build_sample(turns, row, spec, _DIALECT, sample_id=sample_id, source=source, line=line)


def _history(value: Any) -> list[Row]:
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise Reject(RejectReason.BAD_TYPE, f"the history is {type_name(value)}, not a list of pairs")
    turns: list[Row] = []
    for place, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Reject(RejectReason.BAD_TYPE, f"history {place} is not a [question, answer] pair")
        question, answer = (text(side, f"history {place}") for side in pair)
        turns += _exchange(question, answer)
    return turns


def _exchange(question: str, answer: str) -> list[Row]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
