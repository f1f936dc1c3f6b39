"""Rows that a model cannot read in one batch, by the kinds of their media or the number of their pictures.

Phi-4 reads the sound of a whole batch in another way once it holds pictures: a row with both is read so by itself, too,
so what must not meet are rows with pictures and rows with sound alone. GLM-4V writes the frames of videos with the
token of pictures, and its models put the features of each kind in place of all such tokens: a batch has pictures or
videos, and a row with both is none that it takes. `pack` plans by this, and the collaters hold it.

Granite Speech's encoder has no mask of what pads a clip, so that one beside a longer one is read otherwise than alone.

Where layers of cross attention show pictures (Llama 3.2 Vision), tokens before a row's first picture see all pictures
that the batch is padded to, evenly: rows of a batch have equally many, or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.processors.backbone import Backbone
from vlm_prep.shards.media_kinds import KINDS

IMAGE, VIDEO, AUDIO = (1 << bit for bit in range(len(KINDS)))
BOTH = 3
_VIDEOS = "pixel_values_videos"


def sides_of(kinds: NDArray[np.uint8], backbone: Backbone) -> NDArray[np.uint8]:
    """Return on which side rows stand: 0 goes with all, 1 and 2 must not meet, `BOTH` is none that the model takes.

    Args:
        kinds: (rows,) kinds of media of each, a bit each.
        backbone: of the model.
    """
    seen, shown, heard = ((kinds & bit).astype(bool) for bit in (IMAGE, VIDEO, AUDIO))
    if backbone.pictures_or_videos:
        return np.asarray(seen + 2 * shown, np.uint8)
    if backbone.kinds_apart:
        return np.asarray(seen + 2 * (heard & ~seen), np.uint8)
    return np.zeros(len(kinds), np.uint8)


def why_apart(backbone: Backbone) -> str:
    """Say why sides must not meet."""
    if backbone.pictures_or_videos:
        return f"{backbone.name} takes no pictures and videos in one batch"
    return f"{backbone.name} reads the sound of a whole batch in another way once there are pictures in it"


def kinds_of_documents(media: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> tuple[int, ...]:
    """Return the kinds of media of a pack's documents, a bit each, without repetition."""
    bits = [1 << KINDS.index(struct["kind"]) for struct in media]
    ends = np.cumsum(counts).tolist()
    documents = (bits[start:end] for start, end in zip([0, *ends], ends, strict=False))
    return tuple(sorted({int(np.bitwise_or.reduce(np.asarray(each, np.uint8))) for each in documents if each}))


def check_apart(items: Sequence[Mapping[str, Any]], backbone: Backbone) -> None:
    """Refuse a batch in which rows, or documents of packs, of different sides meet.

    Args:
        items: of a dataset: `document_kinds` of packs, else the numbers of media of each kind.
        backbone: of the model.

    Raises:
        ValueError: they do.
    """
    if backbone.cross_attention:
        _require_as_many(items, backbone)
    if backbone.hears_padding:
        _require_as_long(items, backbone)
    if backbone.stacks_videos:
        _require_as_many_frames(items, backbone)
    seen = [str(item["sample_id"]) for item in items if item.get("n_images") and "sample_id" in item]
    if backbone.numbers_pictures and len(seen) > 1:
        raise ValueError(
            f"{seen[0]} and {seen[1]} have pictures: {backbone.name} numbers those of a whole batch, so rows come out "
            "otherwise beside each other; pack them (`vlm-prep pack`), or train with batch_size=1"
        )
    first: dict[int, str] = {}
    for item in items:
        named = str(item.get("sample_id", item.get("sample_ids")))
        own = sum(1 << bit for bit, kind in enumerate(KINDS) if item.get(f"n_{kind}s"))
        for side in sides_of(np.asarray(item.get("document_kinds", (own,)), np.uint8), backbone).tolist():
            first.setdefault(side, named)
    if BOTH in first:
        raise ValueError(f"{first[BOTH]}: {why_apart(backbone)}, so it takes no row with both")
    if {1, 2} <= first.keys():
        kinds = ("pictures", "videos" if backbone.pictures_or_videos else "sound")
        raise ValueError(
            f"{first[1]} has {kinds[0]} and {first[2]} has {kinds[1]}: {why_apart(backbone)}; give such rows batches "
            "(and packs) of their own"
        )


def _require_as_many(items: Sequence[Mapping[str, Any]], backbone: Backbone) -> None:
    if named := _that_differ(items, [int(item.get("n_images", 0)) for item in items]):
        raise ValueError(
            f"{named} differ in their number of pictures: {backbone.name} shows tokens before a row's first picture "
            "all that the batch is padded to; give rows of as many pictures batches of their own, or train with "
            "batch_size=1"
        )


def _require_as_long(items: Sequence[Mapping[str, Any]], backbone: Backbone) -> None:
    heard = [item for item in items if "input_features" in item]
    if named := _that_differ(heard, [int(item["input_features"].shape[1]) for item in heard]):
        raise ValueError(
            f"{named} differ in the length of their sound: {backbone.name} reads what pads a clip beside a longer one; "
            "give rows of as long ones batches of their own, or train with batch_size=1"
        )


def _require_as_many_frames(items: Sequence[Mapping[str, Any]], backbone: Backbone) -> None:
    shown = [item for item in items if _VIDEOS in item]
    if named := _that_differ(shown, [int(item[_VIDEOS].shape[1]) for item in shown]):
        raise ValueError(
            f"{named} differ in their number of frames: {backbone.name} takes as many of each video of a batch; sample "
            "as many (`video_sampling: uniform:N`), give such rows batches of their own, or train with batch_size=1"
        )


def _that_differ(items: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> str | None:
    """Name the rows with the most and the least; None where all have as many."""
    if len(set(numbers)) < 2:
        return None
    places = numbers.index(max(numbers)), numbers.index(min(numbers))
    return " and ".join(f"{items[place].get('sample_id')} ({numbers[place]})" for place in places)
