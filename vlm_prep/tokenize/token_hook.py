"""A function of the user's own behind tokenizing: `token_hook=module:function`.

    def function(row: dict) -> dict | None: ...

It gets what a row became: `input_ids`, `labels`, with `loss_weights` set also these, the media geometry under the
processor's names, all as arrays of its own, and `messages` and `tools` to read. It gives the same keys with what is
written in their place, or None for a row that is not wanted; what it raises rejects the row. It has to give the same
for the same row: the comparison with the processor calls it again, on what the processor makes. Lengths are judged
behind it. See `core.user_code`.

It may put tokens in, take text out and choose what is trained. It may not touch media: pixels are made of the files
when the row is read, so another geometry, or other media tokens, is a reject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.user_code import called, digest_of_hook
from vlm_prep.processors.adapter import Adapter
from vlm_prep.shards.schema import LOSS_WEIGHTS
from vlm_prep.tokenize.drafts import Draft, Labelled
from vlm_prep.tokenize.labels.answers import require_own_labels
from vlm_prep.tokenize.placeholders import IGNORE, find_tokens

SETTING: Final = "token_hook"
CHANGED: Final = "changed_by_token_hook"
"""Note of a row that a hook changed."""


def digest_of(name: str | None) -> list[str | None]:
    """Return a hook's name and the digest of its source, for a run's fingerprint; nothing without one."""
    return [] if name is None else [name, digest_of_hook(name, SETTING)]


def hook_of(config: TokenizeConfig, adapter: Adapter) -> TokenHook | None:
    """Return the hook of a run, None where it has none.

    Raises:
        InputError: there is no such function, or the processor's own labels leave no room for one.
    """
    require_own_labels(config, adapter)
    if config.token_hook is None:
        return None
    return TokenHook(config.token_hook, adapter.hf.tokenizer, adapter.run_ids, weighs=config.loss_weights)


def noted_first(drafts: Sequence[Draft]) -> Draft:
    """Return a row's first document, with the note where any was changed: the note of a row is that of its first."""
    first = drafts[0]
    if not any(CHANGED in draft.notes for draft in drafts):
        return first
    return replace(first, notes=tuple(dict.fromkeys((*first.notes, CHANGED))))


class TokenHook:
    """Calls a hook and judges what it gives.

    Args:
        name: module:function.
        tokenizer: of the processor.
        run_ids: the media tokens.
        weighs: whether tokens have weights of their own.
    """

    def __init__(self, name: str, tokenizer: Any, run_ids: frozenset[int], *, weighs: bool) -> None:
        self._name, self._run_ids, self._weighs = name, run_ids, weighs
        self._most = max(tokenizer.get_vocab().values())
        self._special = frozenset(tokenizer.added_tokens_decoder)
        digest_of(name)

    def __call__(
        self, row: Labelled, geometry: Mapping[str, NDArray[Any]], messages: Sequence[Message], tools: Any
    ) -> Labelled:
        """Return what the hook makes of a row.

        Raises:
            Reject: not_wanted, it gives None; hook_error, it raises or gives what cannot be written.
        """
        weights = {LOSS_WEIGHTS: row.weights.copy()} if self._weighs else {}
        said = {"messages": list(messages), "tools": tools}
        arrays = {name: np.array(value) for name, value in geometry.items()}
        given = {"input_ids": row.ids.copy(), "labels": row.labels.copy(), **weights, **arrays}
        found = called(self._name, SETTING, {**given, **orjson.loads(orjson.dumps(said))})
        if found.keys() - said.keys() != given.keys():
            names = ", ".join(map(str, sorted(found.keys() ^ given.keys() - said.keys(), key=str)))
            raise self._refused(f"gives other keys than it got: {names}")
        if any(name in found and found[name] != said[name] for name in said):
            raise self._refused("changes messages or tools, which row_hook is for")
        for name, value in geometry.items():
            if not np.array_equal(np.asarray(found[name]), value):
                raise self._refused(f"changes {name}, and pixels are made of the files all the same")
        ids, labels = (self._integers(name, found[name]) for name in ("input_ids", "labels"))
        own = self._weights(found[LOSS_WEIGHTS]) if self._weighs else (labels != IGNORE).astype(np.float32)
        made = Labelled(ids, labels, own)
        self._judge(row, made)
        return made

    def noted(
        self, row: Labelled, geometry: Mapping[str, NDArray[Any]], messages: Sequence[Message], tools: Any
    ) -> tuple[Labelled, tuple[str, ...]]:
        """Return what the hook makes of a row, and the note of one that it changed. Raises as a call does."""
        made = self(row, geometry, messages, tools)
        return made, () if made.equals(row) else (CHANGED,)

    def _judge(self, row: Labelled, made: Labelled) -> None:
        count = len(made.ids)
        if not count or len(made.labels) != count or len(made.weights) != count:
            raise self._refused(f"gives {count} input_ids, {len(made.labels)} labels, {len(made.weights)} weights")
        if int(made.ids.min()) < 0 or int(made.ids.max()) > self._most:
            raise self._refused(f"gives ids outside of the vocabulary, 0 to {self._most}")
        trained = made.labels != IGNORE
        if not np.array_equal(made.labels[trained], made.ids[trained]):
            raise self._refused(f"gives labels that are neither {IGNORE} nor the token that stands there")
        if self._media(row.ids, row.ids) != self._media(made.ids, row.ids):
            raise self._refused("gives other media tokens, or other tokens around them, than its media make")
        if trained[find_tokens(made.ids, self._run_ids)].any():
            raise self._refused("trains media tokens")
        if np.any(made.weights[~trained]) or not np.isfinite(made.weights).all() or np.any(made.weights < 0):
            raise self._refused(f"gives {LOSS_WEIGHTS} that are negative, not finite, or of tokens without a label")

    def _media(self, ids: NDArray[np.int32], whole: NDArray[np.int32]) -> list[tuple[int | None, bytes, int | None]]:
        """Return the runs of media tokens, each with the control tokens beside it that are a part of the media in the
        row as it was; those of text may change."""
        around = self._beside(whole)
        found = []
        for place, run in enumerate(self._runs(ids)):
            before, behind = around[place] if place < len(around) else (False, False)
            first, last = int(run[0]), int(run[-1])
            found.append(
                (
                    int(ids[first - 1]) if before and first else None,
                    ids[first : last + 1].tobytes(),
                    int(ids[last + 1]) if behind and last + 1 < len(ids) else None,
                )
            )
        return found

    def _beside(self, ids: NDArray[np.int32]) -> list[tuple[bool, bool]]:
        return [
            (
                bool(run[0]) and int(ids[run[0] - 1]) in self._special,
                run[-1] + 1 < len(ids) and int(ids[run[-1] + 1]) in self._special,
            )
            for run in self._runs(ids)
        ]

    def _runs(self, ids: NDArray[np.int32]) -> list[NDArray[np.int64]]:
        places = find_tokens(ids, self._run_ids)
        return np.split(places, np.flatnonzero(np.diff(places) != 1) + 1) if len(places) else []

    def _integers(self, name: str, value: Any) -> NDArray[np.int32]:
        found = np.asarray(value)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise self._refused(f"gives {name} that are no list of whole numbers")
        if len(found) and max(abs(int(found.min())), abs(int(found.max()))) > np.iinfo(np.int32).max:
            raise self._refused(f"gives {name} beyond 32 bits")
        return found.astype(np.int32)

    def _weights(self, value: Any) -> NDArray[np.float32]:
        found = np.asarray(value)
        if found.ndim != 1 or found.dtype.kind not in "iuf":
            raise self._refused(f"gives {LOSS_WEIGHTS} that are no list of numbers")
        return found.astype(np.float32)

    def _refused(self, what: str) -> Reject:
        return Reject(RejectReason.HOOK_ERROR, f"{SETTING} {self._name} {what}")
