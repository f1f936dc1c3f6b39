"""What other settings than a store was made with mean for its rows: which stay, and which are encoded again.

    length    how long a row may be, and what becomes of longer ones: rows that are whole and fit stay as they are
    encoding  how text is written and what of it is trained, how large pictures are made: every row is encoded again,
              with its media as they were found when they were looked at; no file is opened

A row stays where it follows from what the store says of it that it would be made the same; where that is not known
it is encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import RejectReason
from vlm_prep.core.settings import LabelConfig, LengthConfig, ProcessorConfig
from vlm_prep.processors.argument_checks import PARTS
from vlm_prep.shards.row_ledger import RowLedger
from vlm_prep.tokenize.cut_rows import CUT
from vlm_prep.tokenize.rescue import NOTES

_LENGTH: Final = frozenset(each.name for each in fields(LengthConfig)) - {"overlong_audio"}
_ENCODING: Final = frozenset(each.name for kind in (LabelConfig, ProcessorConfig) for each in fields(kind)) - {
    "token_hook",
    "trust_remote_code",
}
_PARTS: Final = frozenset(name for names in PARTS.values() for name in names) | {"chat_template", "call_defaults"}
_WHOLE: Final = ("drop", "error")
"""Policies that write no row otherwise than whole."""


def layer_of(line: str) -> str | None:
    """Return the layer of a difference between two runs (`fingerprint.changes`); None where an update takes none."""
    group, _, name = line.partition(": ")[0].partition(".")
    name = name.partition(".")[0]
    if group == "config" and name in _LENGTH:
        return "length"
    if (group == "config" and name in _ENCODING) or (group == "processor" and name in _PARTS):
        return "encoding"
    return None


@dataclass(frozen=True)
class Layers:
    """The layers in which two runs differ, and what that means for a store's rows.

    Args:
        changed: the layers.
        then: settings of the store.
        now: those that are asked for.
    """

    changed: frozenset[str]
    then: LengthConfig
    now: LengthConfig
    splits: bool
    """Whether the store's rows may have documents that were not written, of whatever length."""

    @staticmethod
    def of(lines: Sequence[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> Layers:
        """Return what differences say, of settings as manifests have them."""
        changed = frozenset(layer for line in lines if (layer := layer_of(line)) is not None)
        return Layers(changed, _length_of(then), _length_of(now), then["rewritten_history"] == "split")

    def keeps_reject(self, reason: str) -> bool:
        """Whether a row that was rejected would be again, and in the same words."""
        if not self.changed:
            return True
        dropped = all(each.overlong == "drop" and each.exact_length is None for each in (self.then, self.now))
        # a smaller limit is told before anything else that is wrong with a text
        return self.changed == {"length"} and dropped and self._raised and reason != RejectReason.OVERLONG.value

    def keeps(self, ledger: RowLedger, lengths: Callable[[], NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Return (rows,) which written rows of the store would be made as they are.

        Args:
            ledger: the record of its rows.
            lengths: asked for the number of tokens of each document.
        """
        if "encoding" in self.changed:
            return np.zeros(len(ledger), np.bool_)
        if not self.changed:
            return np.ones(len(ledger), np.bool_)
        return self._whole(ledger) & self._fits(ledger, lengths())

    @property
    def other_columns(self) -> bool:
        """Whether shards have columns that they did not have, or lack some."""
        return (self.then.overlong == "rescue") != (self.now.overlong == "rescue")

    @property
    def _raised(self) -> bool:
        """Whether no row is too long now that was not before."""
        before, now = self.then.most_tokens, self.now.most_tokens
        return now is None or (before is not None and now >= before)

    def _whole(self, ledger: RowLedger) -> NDArray[np.bool_]:
        then = self.then
        cuts_nothing = then.most_tokens is None or (then.overlong in _WHOLE and then.exact_length is None)
        if self.splits:
            return np.full(len(ledger), cuts_nothing and self._raised and self.now.exact_length is None)
        if cuts_nothing:
            return np.ones(len(ledger), np.bool_)
        if then.overlong == "truncate" and not then.cuts:
            return np.zeros(len(ledger), np.bool_)
        done = {CUT, *NOTES.values()}
        return np.array([done.isdisjoint(notes or ()) for notes in ledger.notes], np.bool_)

    def _fits(self, ledger: RowLedger, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        limit, exact = self.now.most_tokens, self.now.exact_length
        if limit is None:
            return np.ones(len(ledger), np.bool_)
        wrong = lengths > limit if exact is None else lengths != exact
        counts = np.concatenate([[0], np.cumsum(wrong)])
        return np.asarray(counts[ledger.begins[1:]] == counts[ledger.begins[:-1]])


def _length_of(config: Mapping[str, Any]) -> LengthConfig:
    return LengthConfig(**{name: config[name] for name in (*_LENGTH, "overlong_audio") if name in config})
