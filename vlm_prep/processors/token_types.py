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

from vlm_prep.processors.payload.nested import kept, same_values
from vlm_prep.processors.seen_pictures import SEEN

TokenValues = Mapping[str, Mapping[str, Sequence[int]]]
"""{name of the tensor: {value, as text for JSON: the ids that have it}}; all other ids have 0. "2@7-8" is the value 2
between the ids 7 and 8: GLM-4V writes a video's frames with the token of pictures, between tokens of its own."""
_TEXT = frozenset({"input_ids", "attention_mask", "labels", SEEN})
_TYPES = "token_type_ids"
_COUNTS = ("n_images", "n_videos", "n_audios", "seq_lens")
_RESERVED = frozenset((*_COUNTS, "sample_id", "sample_ids", "position_ids", "labels", "loss_weights"))
"""What items of a dataset hold of a row under these names is no tensor of its processor."""
ANSWER = "1@answer"
"""The value of a row's answer, from the first trained token on (PaliGemma): of no ids, see `answer_types`."""


def of_text(name: str) -> bool:
    """Whether a tensor of a processor has an entry for each token, made of the text alone."""
    return name in _TEXT or name.endswith(_TYPES)


def read_values(whole: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Return which ids have which value in each tensor of types of a processor's output (batch of 1)."""
    ids = np.asarray(whole.get("input_ids", ())).reshape(-1)
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


def join_kinds(
    by_kind: Mapping[str, TokenValues], regions: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, list[int]]]:
    """Return what calls with media of each kind showed, in one.

    Args:
        by_kind: {kind of media: what its call showed}.
        regions: {kind: the ids between which its tokens stand}. An id that other kinds give another value has its value
            of this kind only there.
    """
    joined: list[dict[str, dict[str, list[int]]]] = []
    within: list[dict[str, dict[str, list[int]]]] = []
    for kind, values in by_kind.items():
        others = join_values(each for other, each in by_kind.items() if other != kind)
        for name, by_value in values.items():
            for value, ids in by_value.items():
                differing = {token for one, tokens in others.get(name, {}).items() if one != value for token in tokens}
                clash = sorted(differing.intersection(ids)) if kind in regions else []
                joined.append({name: {value: [token for token in ids if token not in clash]}})
                if clash:
                    start, end = regions[kind]
                    within.append({name: {f"{value}@{start}-{end}": clash}})
    return join_values([*joined, *within])  # those in regions last: they overrule


def values_of(ids: NDArray[Any], by_value: Mapping[str, Sequence[int]]) -> NDArray[np.int64]:
    """Return the types of tokens: int64 of the shape of `ids`."""
    types = np.zeros(ids.shape, np.int64)
    for value, tokens in by_value.items():
        if value == ANSWER:
            continue
        number, _, region = value.partition("@")
        inside: NDArray[np.bool_] | bool = True
        if region:
            start, end = (np.cumsum(ids == int(token), axis=-1) for token in region.split("-"))
            inside = start > end
        for token in tokens:
            types[(ids == token) & inside] = int(number)
    return types


def answer_types(labels: NDArray[Any], lengths: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Return 1 for the tokens of answers, 0 for those of prompts: int64 (length,).

    Args:
        labels: (length,) of documents one after the other, -100 for what is not trained.
        lengths: of the documents.
    """
    types = np.zeros(len(labels), np.int64)
    start = 0
    for end in np.cumsum(np.asarray(lengths)).tolist():
        trained = np.flatnonzero(labels[start:end] >= 0)
        types[start + int(trained[0]) if len(trained) else end : end] = 1
        start = end
    return types


def why_not_held(calls: Sequence[Mapping[str, Any]]) -> str | None:
    """Say what of a processor's output no row or batch here holds; None where there is no such tensor.

    Args:
        calls: what it returned for the same media between texts of several lengths.
    """
    if taken := _RESERVED.intersection(calls[0]):
        return f"it returns {', '.join(sorted(taken))}, a name that rows of a store have for something else"
    if lost := _of_each_token(calls):
        return f"{', '.join(lost)} has an entry for each token, which no batch here holds"
    if told := _places_in_text(calls):
        return f"{', '.join(told)} depends on where its placeholder stands in the text, which no pack here keeps"
    return None


def _of_each_token(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tensors of a processor, beside types, that are as long as the text in each of several calls."""
    lengths = [np.shape(made["input_ids"])[1] for made in calls]
    names = [name for name in calls[0] if not of_text(name) or name == SEEN]
    return [name for name in names if [_second_size(made.get(name)) for made in calls] == lengths]


def _places_in_text(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tensors of a processor that are others where the same media stands between other texts."""
    first, *others = [{name: kept(value) for name, value in made.items() if not of_text(name)} for made in calls]
    return [name for name, value in first.items() if any(not same_values(value, made.get(name)) for made in others)]


def _second_size(value: Any) -> int:
    shape = tuple(getattr(value, "shape", ()))
    return int(shape[1]) if len(shape) > 1 else -1
