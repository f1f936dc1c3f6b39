"""What a processor says of each token beside its id: `token_type_ids`, `mm_token_type_ids` and their like.

They follow from the ids: a value marks the tokens of pictures, videos or audio, in some families those around them,
too. Which ids get which value, and under which name, is read off a call, never assumed: Gemma 3 and PaliGemma mark
pictures in `token_type_ids`, Qwen-VL in `mm_token_type_ids`, ERNIE-4.5-VL in two tensors at once. Training makes them
again of the ids (`values_of`), so no store holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TokenValues = Mapping[str, Mapping[str, Sequence[int]]]
"""{name of the tensor: {value, as text for JSON: the ids that have it}}; all other ids have 0."""
_TEXT = frozenset({"input_ids", "attention_mask"})
_TYPES = "token_type_ids"


def of_text(name: str) -> bool:
    """Whether a tensor of a processor has an entry for each token, made of the text alone."""
    return name in _TEXT or name.endswith(_TYPES)


def read_values(whole: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Return which ids have which value in each tensor of types of a processor's output (batch of 1)."""
    ids = np.asarray(whole["input_ids"]).reshape(-1)
    found: dict[str, dict[str, list[int]]] = {}
    for name in sorted(name for name in whole if name.endswith(_TYPES)):
        types = np.asarray(whole[name]).reshape(-1)
        if types.shape == ids.shape:
            values = sorted({int(value) for value in types} - {0})
            found[name] = {str(value): sorted({int(token) for token in ids[types == value]}) for value in values}
    return found


def join_values(all_values: Iterable[TokenValues]) -> dict[str, dict[str, list[int]]]:
    """Return what several calls showed, of pictures, of videos, of audio, in one."""
    joined: dict[str, dict[str, list[int]]] = {}
    for values in all_values:
        for name, by_value in values.items():
            of_name = joined.setdefault(name, {})
            for value, ids in by_value.items():
                of_name[value] = sorted({*of_name.get(value, ()), *ids})
    return joined


def values_of(ids: NDArray[Any], by_value: Mapping[str, Sequence[int]]) -> NDArray[np.int64]:
    """Return the types of tokens: int64 of the shape of `ids`."""
    types = np.zeros(ids.shape, np.int64)
    for value, tokens in by_value.items():
        for token in tokens:
            types[ids == token] = int(value)
    return types
