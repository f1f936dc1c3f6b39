"""Tensors that a shard holds (payload `pixels`) → the processor's own.

The tensors of media that a processor treats together stand with the first of them; the others have an empty list. A
media with null was not made into tensors: its file is decoded when it is read.

A tensor whose columns along the last dimension repeat up to its end (a spectrogram that its processor pads to five
minutes, and its mask) is stored without the repeats: its shape ends in a further number below zero, -n, and its data
are the first n columns, the last of which stands for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason, StoreError
from vlm_prep.core.records import MediaKind
from vlm_prep.core.stored_media import StoredMedia
from vlm_prep.processors.payload.join import join, torch_type
from vlm_prep.processors.payload.uint8 import Uint8Rule

if TYPE_CHECKING:
    import torch

WAVEFORM = "waveform"
"""Sound as it goes into the feature extractor: float32 (samples,), or int16, which is 32768 times it."""
_FULL_SCALE = np.float32(32768)
_PIECE = 1 << 18
"""Floats that are compared at a time: 1 MiB stays in the processor's cache."""
_LARGEST = 1 << 28
"""Bytes of a tensor with its repeats; more is no processor's padding."""


class Stored(NamedTuple):
    """One stored tensor: a read-only view of the shard, and how the processor's is made of it."""

    array: NDArray[Any]
    rule: Uint8Rule | None
    dtype: str | None = None
    """torch's name of its type where numpy has none: the array holds the bits."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def restored(self) -> torch.Tensor:
        """Return the processor's tensor."""
        import torch

        # copied: torch has no read-only tensors
        tensor = torch.from_numpy(np.array(self.array))
        if self.dtype is not None:
            return tensor.view(torch_type(self.dtype))
        return tensor if self.rule is None else self.rule.restore(tensor)


class CodedTensor:
    """A tensor that is wholly made of stored bytes, not made yet.

    Args:
        arrays: uint8, read-only views to be joined along their first dimension; the others are equal.
        rule: how the processor's tensor is made of them.
    """

    __slots__ = ("arrays", "rule", "shape")

    def __init__(self, arrays: tuple[NDArray[np.uint8], ...], rule: Uint8Rule) -> None:
        self.arrays, self.rule = arrays, rule
        self.shape: tuple[int, ...] = arrays[0].shape
        """Of the bytes."""
        if len(arrays) > 1:
            self.shape = (sum(map(len, arrays)), *self.shape[1:])

    def restored(self) -> torch.Tensor:
        """Return the processor's tensor."""
        return joined([Stored(array, self.rule) for array in self.arrays])

    def equals(self, made: torch.Tensor) -> bool:
        """Whether `restored` is this tensor, bit by bit; made a piece at a time, for memory that is new costs more than
        the arithmetic."""
        import torch

        shape = self.rule.shape(self.shape)
        if tuple(made.shape) != shape or made.dtype != torch.float32:
            return False
        rows = max(1, _PIECE // max(1, math.prod(shape[1:])))
        piece, start = torch.empty((rows, *shape[1:])), 0
        for array in self.arrays:
            for first in range(0, len(array), rows):
                stored = torch.from_numpy(np.array(array[first : first + rows]))  # torch has no read-only tensors
                restored = self.rule.restore(stored, out=piece[: len(stored)])
                if not torch.equal(restored, made[start : start + len(stored)]):
                    return False
                start += len(stored)
        return True


def joined(parts: Sequence[torch.Tensor | Stored], axis: int = 0) -> torch.Tensor:
    """Return one tensor of parts, as the processor joins them."""
    return join([part.restored() if isinstance(part, Stored) else part for part in parts], axis)


def coded_tensor(parts: Sequence[torch.Tensor | Stored], axis: int = 0) -> CodedTensor | None:
    """Return parts as one tensor of bytes; None where one has other bytes, none, or another shape, or where several
    are joined along another dimension than the first."""
    first = parts[0]
    if axis and len(parts) > 1:
        return None
    if not isinstance(first, Stored) or first.rule is None:
        return None
    if len(parts) == 1:
        return CodedTensor((first.array,), first.rule)
    arrays = [part.array for part in parts if isinstance(part, Stored) and part.rule == first.rule]
    if len(arrays) < len(parts) or any(array.shape[1:] != first.array.shape[1:] for array in arrays):
        return None
    return CodedTensor(tuple(arrays), first.rule)


class StoredPayload:
    """Finds the stored tensors of media.

    Args:
        payload: what the manifest says of them, see `maker.PayloadMaker`; None in stores that hold none.
        names: of the tensors that are made of a kind of media.
    """

    def __init__(self, payload: Mapping[str, Any] | None, names: Callable[[str], set[str] | None]) -> None:
        encodings = (payload or {}).get("forms", {})
        self._rules = {
            (kind, name): Uint8Rule.from_json(rule)
            for kind, encoding in encodings.items()
            for name, rule in encoding["codings"].items()
        }
        self._names = names
        self._known = {name for kind in get_args(MediaKind) for name in names(kind) or ()}

    def stored(self, kind: str, structs: Sequence[StoredMedia]) -> dict[str, list[Stored]] | None:
        """Return the tensors of media that the processor treats together, by name; None if there are none stored.

        Raises:
            StoreError: a tensor is coded in a way that the manifest does not tell.
        """
        wanted = self._names(kind)
        found: dict[str, list[Stored]] = {}
        for struct in structs:
            tensors = struct.get("tensors")
            if tensors is None:
                return None
            for tensor in tensors:
                name = tensor["name"]
                # what no part is known to make belongs to the media that it stands with
                if name != WAVEFORM and (wanted is None or name in wanted or name not in self._known):
                    stored = self._open(kind, name, tensor)
                    if name in found:
                        found[name].append(stored)
                    else:
                        found[name] = [stored]
        return found or None

    def _open(self, kind: str, name: str, tensor: Mapping[str, Any]) -> Stored:
        rule = None
        if tensor["coded"]:
            rule = self._rules.get((kind, name))
            if rule is None:
                raise StoreError(f"{name} is stored as bytes and the manifest does not say how")
        dtype = tensor["dtype"]
        return Stored(array_of(tensor), rule, dtype if dtype not in np.sctypeDict else None)


def is_exact(tensors: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether pixels of a media are stored in the processor's dtype, since bytes would not be exact."""
    return any("pixel_values" in tensor["name"] and not tensor["coded"] for tensor in tensors or ())


def array_of(tensor: Mapping[str, Any]) -> NDArray[Any]:
    """Return a stored tensor as a read-only view.

    Raises:
        StoreError: its bytes are not of its shape.
    """
    shape, data, dtype = tensor["shape"], tensor["data"], tensor["dtype"]
    # numpy takes a tuple in a third of the time that it takes for an array
    sizes = tuple(shape.tolist() if isinstance(shape, np.ndarray) else shape)
    try:
        if dtype != "uint8" or not isinstance(data, np.ndarray):
            data = np.frombuffer(data, dtype if dtype in np.sctypeDict else _bits(dtype))
        array: NDArray[Any] = _repeated(data, sizes) if sizes and sizes[-1] < 0 else data.reshape(sizes)
    except ValueError as error:
        raise StoreError(f"{tensor['name']}: {error}", "`vlm-prep verify` looks at the whole store") from error
    return array


def _repeated(data: NDArray[Any], sizes: Sequence[int]) -> NDArray[Any]:
    """Return a tensor whose last columns repeat."""
    *leading, whole, kept = sizes
    columns = data.reshape((*leading, -kept))
    if whole < -kept or math.prod((*leading, whole)) * data.itemsize > _LARGEST:
        raise ValueError(f"a shape of {tuple(sizes)}")
    return np.concatenate([columns, np.repeat(columns[..., -1:], whole + kept, axis=-1)], axis=-1)


def _without_repeats(array: NDArray[Any]) -> NDArray[Any]:
    """Return a tensor without the columns at its end that repeat the one before them."""
    if array.ndim < 2 or array.shape[-1] < 2 or not np.array_equal(array[..., -1], array[..., -2]):
        return array
    differs = (array != array[..., -1:]).reshape(-1, array.shape[-1]).any(axis=0)
    kept = int(differs.nonzero()[0][-1]) + 2 if differs.any() else 1
    return np.ascontiguousarray(array[..., :kept])


def stored_waveform(struct: StoredMedia) -> NDArray[np.float32] | None:
    """Return the sound that is stored with a media: float32 (samples,); None if there is none."""
    for tensor in struct.get("tensors") or ():
        if tensor["name"] == WAVEFORM:
            wave = array_of(tensor)
            return wave.astype(np.float32) / _FULL_SCALE if tensor["coded"] else np.array(wave, np.float32)
    return None


def store_waveform(wave: NDArray[np.float32]) -> dict[str, Any]:
    """Return the stored form of a sound: int16 where no bit is lost by it, else float32."""
    scaled = wave * _FULL_SCALE
    small = scaled.round().clip(-32768, 32767).astype(np.int16)
    lossless = np.array_equal(small.astype(np.float32) / _FULL_SCALE, wave)
    return store_array(WAVEFORM, small if lossless else wave, coded=lossless)


def _bits(dtype: str) -> np.dtype[Any]:
    """Return integers as wide as a type that only torch has (bfloat16, the float8 types)."""
    return np.dtype(f"i{torch_type(dtype).itemsize}")


def is_numpys(tensor: torch.Tensor) -> bool:
    """Whether numpy has a tensor's type."""
    return str(tensor.dtype).removeprefix("torch.") in np.sctypeDict


def store_tensor(name: str, tensor: torch.Tensor, *, coded: bool = False) -> dict[str, Any]:
    """Return the stored form of a tensor of any type, see `store_array`."""
    import torch

    if is_numpys(tensor):
        return store_array(name, tensor.numpy(), coded=coded)
    if not torch.isfinite(tensor.float()).all():
        raise Reject(RejectReason.PROCESSOR_ERROR, f"{name}: the processor makes values that are not finite")
    dtype = str(tensor.dtype).removeprefix("torch.")
    bits = tensor.contiguous().view(torch_type(_bits(dtype).name)).numpy()
    return {**store_array(name, bits), "dtype": dtype}


def store_array(name: str, array: NDArray[Any], *, coded: bool = False) -> dict[str, Any]:
    """Return the stored form of a tensor, see `shards.schema.TENSOR`.

    Raises:
        Reject: processor_error, for floats that are not finite.
    """
    flat = np.ascontiguousarray(array)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise Reject(RejectReason.PROCESSOR_ERROR, f"{name}: the processor makes values that are not finite")
    kept = flat if coded else _without_repeats(flat)
    return {
        "name": name,
        "dtype": str(flat.dtype),
        "shape": [*flat.shape, *([-kept.shape[-1]] if kept is not flat else [])],
        "coded": coded,
        "data": kept.reshape(-1).view(np.uint8),
    }
