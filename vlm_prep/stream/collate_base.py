"""What both collaters share: which tensors a batch has, how they are padded, joined and counted.

An item's tensors are of two sorts, told apart by name alone: those with an entry for each token (TOKEN_FILL says
which, and how they are padded) and media, every other name, which are concatenated along their first dimension. So
a family's new media tensor needs no code here, and a new tensor of tokens needs its fill. What a processor says of each
token beside its id (`token_type_ids` of Gemma 3, `mm_token_type_ids` of Qwen-VL, ...) is made again of the ids, under
the processor's own names; padding is of type 0, as the processors pad it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from vlm_prep.processors.backbone import Backbone
from vlm_prep.processors.kinds_apart import check_apart
from vlm_prep.processors.payload.join import join
from vlm_prep.processors.payload.nested import Nested
from vlm_prep.processors.payload.pointers import Pointers, pointers_of
from vlm_prep.processors.payload.stored import CodedTensor, is_numpys
from vlm_prep.processors.seen_pictures import SEEN, TILES, seen_pictures
from vlm_prep.processors.token_types import ANSWER, TokenValues, answer_types, values_of
from vlm_prep.stream.buffers import Buffers
from vlm_prep.stream.dataset import Item, ShardDataset
from vlm_prep.stream.document_padding import PADDED_AT, REAL_LENGTHS
from vlm_prep.stream.dummy import DummyMedia
from vlm_prep.stream.media_rows import counted_on, trimmed, with_masks
from vlm_prep.stream.restore import CODED, PIXEL_RULES, shared_rule

IGNORE = -100
TOKEN_FILL: Mapping[str, float] = {"labels": IGNORE, "loss_weights": 0.0, "mm_token_type_ids": 0, "token_type_ids": 0}
"""Tensors with an entry for each token, beside input_ids, and what pads them."""
Batch = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
KINDS = {"image": 1, "video": 2, "audio": 3}
TRAINED = ("labels", "loss_weights")
"""Tensors that say what is trained; they are shifted together."""
_TENSORS = (torch.Tensor, np.ndarray, CodedTensor, Nested)
_NUMBERS = tuple(f"n_{kind}s" for kind in ("image", "video", "audio"))
_COUNTS = tuple((f"{key}_per_sample", key) for key in _NUMBERS)
_NOT_MEDIA = ("position_ids", "seq_lens", PADDED_AT, REAL_LENGTHS, "sample_id", "sample_ids", *_NUMBERS)


class Collate:
    """What both collaters share.

    Args:
        pad_token_id: fills input_ids.
        image_token_id: marks pictures in mm_token_type_ids.
        video_token_id: marks videos in mm_token_type_ids.
        token_types: ids of each kind of media for mm_token_type_ids, in place of the two.
        token_values: what the processor says of tokens, under its own names, in place of all three; `for_store` knows.
        masks: {mask of a media tensor's second dimension: (that tensor, dtype)}; `for_store` knows. Where several rows
            have the tensor, rows for which the processor left the mask out get a whole one.
        apart: what the model needs, where it cannot read all kinds of media in one batch, see
            `processors.kinds_apart`; `for_store` knows.
        axes: {media tensor: the dimension along which media are joined}, where it is not the first; `for_store` knows.
        pointers: {media tensor: (the one whose rows its numbers are places in, places in each)}; `for_store` knows.
        max_length: pad to it; None pads to the longest row.
        pad_to_multiple_of: round the padded length up to a multiple.
        pixel_dtype: cast floating pixels; None keeps the processor's float32.
        token_fill: further tensors with an entry for each token, and what pads them.
        counts: n_images_per_sample and n_videos_per_sample, int64 (B,), where the batch has any; False for models
            that take no further arguments.
        dummy: what a batch without media gets, see `dummy`; True in `for_store` takes the store's. Where every row
            fills `max_length` the batch grows by it.
        buffers: where media tensors are laid, see `buffers`.
        columns: the store's columns, for placeholders; `for_store` gives them.
        trims: {media tensor: its mask}, where the model reads what the mask keeps alone: batches end with their longest
            media, not with the processor's padding. `for_store` knows; {} keeps the processor's tensors.
    """

    def __init__(
        self,
        pad_token_id: int = 0,
        *,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        token_types: Mapping[str, Sequence[int]] | None = None,
        token_values: TokenValues | None = None,
        masks: Mapping[str, Sequence[str]] | None = None,
        apart: Backbone | None = None,
        axes: Mapping[str, int] | None = None,
        pointers: Pointers | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        pixel_dtype: torch.dtype | None = None,
        token_fill: Mapping[str, float] | None = None,
        counts: bool = True,
        dummy: DummyMedia | None = None,
        buffers: Buffers | None = None,
        columns: Sequence[str] = ("input_ids", "labels"),
        trims: Mapping[str, str] | None = None,
    ) -> None:
        self.pad_token_id = pad_token_id
        single = {"image": image_token_id, "video": video_token_id}
        token_types = token_types or {kind: [token] for kind, token in single.items() if token is not None}
        by_value = {str(KINDS[kind]): tokens for kind, tokens in token_types.items()}
        if token_values is None:
            token_values = {"mm_token_type_ids": by_value} if by_value else {}
        self.token_values: TokenValues = token_values
        # text that sees pictures by layers of their own is told which, by this token
        self._seen_token = image_token_id if apart is not None and apart.cross_attention else None
        self.masks, self.apart, self.axes, self.trims = masks or {}, apart, axes or {}, trims or {}
        self.pointers = pointers or {}
        self.max_length, self.pad_to_multiple_of = max_length, pad_to_multiple_of
        self.pixel_dtype = pixel_dtype
        self.token_fill = {"input_ids": pad_token_id, **TOKEN_FILL, **(token_fill or {})}
        self.counts, self.dummy = counts, dummy
        self.buffers = buffers or Buffers()
        self.columns = tuple(columns)
        self._not_media = {*self.token_fill, *_NOT_MEDIA}

    def _placeholder(self) -> Item:
        """An item of two tokens of which none is trained."""
        names = [name for name in self.token_fill if name in self.columns]
        kinds = {name: np.float32 if name == "loss_weights" else np.int64 for name in names}
        item = {name: np.full(2, self.token_fill[name], kinds[name]) for name in names}
        return {**item, "sample_id": "placeholder", "n_images": 0, "n_videos": 0}

    def _length(self, items: Sequence[Item], room: int) -> int:
        """The padded length of a batch, with room for so many tokens after its shortest row."""
        lengths = [rows_of(item["input_ids"]) for item in items]
        longest = max(lengths)
        if self.max_length is not None and longest > self.max_length:
            named = items[lengths.index(longest)]
            raise ValueError(
                f"{named.get('sample_id', named.get('sample_ids'))}: {longest} tokens, more than max_length "
                f"{self.max_length}; rows are never cut here: tokenize or pack with that length"
            )
        length = max(self.max_length or longest, min(lengths) + room if room else 0)
        multiple = self.pad_to_multiple_of or 1
        return -(-length // multiple) * multiple

    def _tokens(self, items: Sequence[Item], length: int) -> Arrays:
        """Every tensor with an entry for each token, right-padded; numpy's, whose small operations cost a third of
        torch's."""
        batch: Arrays = {}
        for name, fill in self.token_fill.items():
            rows = [array_of(item[name]) for item in items if name in item]
            if not rows:
                continue
            if len(rows) < len(items):
                missing = next(item for item in items if name not in item)
                raise ValueError(f"{missing.get('sample_id', missing.get('sample_ids'))} has no {name}, others do")
            padded = np.empty((len(rows), length), _wide(rows[0].dtype))
            padded.fill(fill)
            for row, values in enumerate(rows):
                padded[row, : len(values)] = values
            batch[name] = padded
        return batch

    def _add_types(self, batch: Arrays, items: Sequence[Item], stand_in: slice | None, row: int) -> None:
        """Add what the processor says of each token; nothing of padding, but of the stand-in that lies in it."""
        for name, by_value in self.token_values.items():
            if name in batch:
                continue
            types = values_of(batch["input_ids"], by_value)
            if any(self.pad_token_id in tokens for tokens in by_value.values()):
                made = types.copy()
                for number, item in enumerate(items):
                    types[number, rows_of(item["input_ids"]) :] = 0
                    if PADDED_AT in item:
                        types[number, : len(item[PADDED_AT])][item[PADDED_AT]] = 0
                if stand_in is not None:
                    types[row, stand_in] = made[row, stand_in]
            for number, item in enumerate(items if ANSWER in by_value else ()):
                own = answer_types(array_of(item["labels"]), item.get("seq_lens", [rows_of(item["labels"])]))
                types[number, : len(own)] = own
            batch[name] = types

    def _media(self, items: Sequence[Item]) -> Batch:
        """Media tensors of all items, concatenated in order; none if no item has any."""
        parts: dict[str, list[Any]] = {}
        beside = counted_on(with_masks(items, self.masks), self.pointers)
        for item in trimmed(beside, self.trims):
            for name, value in item.items():
                if name not in self._not_media and isinstance(value, _TENSORS) and value.shape[0]:
                    parts.setdefault(name, []).append(value)
        self.buffers.turn()
        batch: Batch = {}
        for name in sorted(parts):
            if name in self.axes and len(parts[name]) > 1:
                batch[name] = self._side_by_side(name, parts[name])
                continue
            rule = shared_rule(parts[name])
            if rule is None:
                made = [value.restored() if isinstance(value, CodedTensor) else value for value in parts[name]]
                batch[name] = self._joined(name, made)
            else:
                arrays = [array for value in parts[name] for array in value.arrays]
                batch[name + CODED] = self._laid(name, arrays)
                batch.setdefault(PIXEL_RULES, {})[name] = rule
        return batch

    def _joined(self, name: str, values: list[Any]) -> Any:
        if any(isinstance(value, Nested) for value in values):
            return Nested(each for value in values for each in value).each(functools.partial(self._cast, name))
        if any(isinstance(value, torch.Tensor) and not is_numpys(value) for value in values):
            tensors = [value if isinstance(value, torch.Tensor) else torch.from_numpy(value) for value in values]
            return self._cast(name, join(tensors))
        arrays = [array_of(value) for value in values]
        shapes = {array.shape[1:] for array in arrays}
        if len({len(shape) for shape in shapes}) > 1:
            raise ValueError(f"{name}: rows of shapes {sorted(shapes)} do not go into one tensor")
        if len(shapes) > 1:
            # pictures of several sizes or tiles: padded with zeros, as transformers' processors pad a batch
            return self._cast(name, join([torch.from_numpy(np.array(array)) for array in arrays]))
        wide = arrays[0].dtype if isinstance(values[0], torch.Tensor) else _wide(arrays[0].dtype)
        if self._casts(name, _dtype(wide)):
            return torch.cat([torch.from_numpy(np.array(array)).to(self.pixel_dtype) for array in arrays])
        if len(values) == 1 and isinstance(values[0], torch.Tensor):
            return values[0]
        return self._laid(name, arrays, wide)

    def _side_by_side(self, name: str, values: list[Any]) -> torch.Tensor:
        """Media of several rows along another dimension than the first."""
        made = [value.restored() if isinstance(value, CodedTensor) else torch.as_tensor(value) for value in values]
        return self._cast(name, torch.cat(made, self.axes[name]))

    def _laid(self, name: str, arrays: Sequence[NDArray[Any]], wide: np.dtype[Any] | None = None) -> torch.Tensor:
        """Lay arrays one after the other into the batch's memory; they differ in their first dimension only."""
        shape, start = (sum(map(len, arrays)), *arrays[0].shape[1:]), 0
        joined, laid = self.buffers.empty(name, shape, wide or _wide(arrays[0].dtype))
        for array in arrays:  # 7 % faster than np.concatenate(out=...) on rows of megabytes
            laid[start : start + len(array)] = array
            start += len(array)
        return joined

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.pixel_dtype) if self._casts(name, tensor.dtype) else tensor

    def _casts(self, name: str, dtype: torch.dtype) -> bool:
        pixels = "pixel_values" in name and dtype.is_floating_point
        return pixels and self.pixel_dtype not in (None, dtype)

    def _with_media(self, batch: Arrays, items: Sequence[Item]) -> Batch:
        """Add types to the tokens, and return media, the stand-in where there are none, and counts; text alone gets
        none of them."""
        if self.apart is not None:
            check_apart(items, self.apart)
        media = self._media(items)
        row, stand_in = 0, None
        if self.dummy is not None and not media:
            row = min(range(len(items)), key=lambda i: len(items[i]["input_ids"]))
            first = len(items[row]["input_ids"])
            stand_in = slice(first, first + len(self.dummy.ids))
            batch["input_ids"][row, stand_in] = self.dummy.ids
            media = {name: tensor.clone() for name, tensor in self.dummy.tensors.items()}
            media = {name: self._joined(name, [tensor]) for name, tensor in trimmed([media], self.trims)[0].items()}
        for name, key in _COUNTS if self.counts else ():
            numbers = [item.get(key, 0) for item in items]
            if any(numbers):
                media[name] = torch.from_numpy(np.array(numbers, np.int64))
        self._add_types(batch, items, stand_in, row)
        if self._seen_token is not None and TILES in media:
            batch[SEEN] = seen_pictures(batch["input_ids"], self._seen_token, media[TILES].numpy())
        return media


def tensors(arrays: Arrays) -> Batch:
    """Return arrays as tensors on the same memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def rows_of(value: Any) -> int:
    """Return a tensor's first dimension; torch's own len() is slow."""
    return int(value.shape[0])


def array_of(value: Any) -> NDArray[Any]:
    return value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what a batch holds of a column: int64 of int32, as models take them; all else as it is."""
    return np.dtype(np.int64) if dtype == np.int32 else dtype


@functools.cache
def _dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return torch's name of a numpy type."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


class _SharedOptions(TypedDict, total=False):
    image_token_id: int | None
    video_token_id: int | None
    token_types: Mapping[str, Sequence[int]] | None
    token_values: TokenValues | None
    max_length: int | None
    pad_to_multiple_of: int | None
    pixel_dtype: torch.dtype | None
    token_fill: Mapping[str, float] | None
    counts: bool
    buffers: Buffers | None
    columns: Sequence[str]
    trims: Mapping[str, str] | None


class CollateOptions(_SharedOptions, total=False):
    """Arguments of `Collate` that the collaters share; `dummy=True` of `for_store` takes the store's."""

    dummy: DummyMedia | None


class StoreOptions(_SharedOptions, total=False):
    """What `for_store` takes of any collater in place of what the store says."""

    pad_token_id: int
    shift: bool
    dummy: DummyMedia | bool | None


def store_options(dataset: ShardDataset, options: Mapping[str, Any]) -> dict[str, Any]:
    processor = dataset.manifest.processor
    if options.get("dummy") is True:
        options = {**options, "dummy": DummyMedia.of(processor)}
    return {
        "pad_token_id": processor["pad_token_id"] or 0,
        "image_token_id": processor["image_token_id"],
        "video_token_id": processor["video_token_id"],
        "token_types": processor["token_types"],
        "token_values": processor.get("token_values"),
        "apart": dataset.apart,
        "axes": {name: axis for part in processor["parts"].values() for name, axis in part.get("axes", {}).items()},
        "masks": {name: of for part in processor["parts"].values() for name, of in part.get("masks", {}).items()},
        "trims": {name: mask for part in processor["parts"].values() for name, mask in part.get("trims", {}).items()},
        "pointers": pointers_of(processor["parts"]),
        "columns": dataset.columns,
        **options,
    }
