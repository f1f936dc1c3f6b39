"""Media → the tensors that a shard stores of them (payload `pixels`): nothing is left to decode in training."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm_prep.core.settings import AudioPayload, MediaMode
from vlm_prep.core.stored_media import StoredMedia
from vlm_prep.media.decode import file_bytes
from vlm_prep.processors.payload.encodings import BYTES, Encoding, as_bytes
from vlm_prep.processors.payload.patches import Patches, patches_for
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.payload.stored import store_array, store_tensor, store_waveform
from vlm_prep.processors.payload.uint8 import Uint8Rule

if TYPE_CHECKING:
    import torch

_REMEMBERED = 128 << 20


class PayloadMaker:
    """Makes the stored tensors of a document's media.

    Args:
        maker: of the processor.
        payload: `payload` of a manifest's processor, see `describe_payload`.
        stored: names of tensors that rows hold beside their media, which are left out.
    """

    def __init__(self, maker: PixelMaker, payload: Mapping[str, Any], stored: Sequence[str]) -> None:
        self._maker = maker
        self._encodings = {kind: Encoding.from_json(encoding) for kind, encoding in payload["forms"].items()}
        self._audio: AudioPayload = payload["audio"]
        self._leave_out = frozenset(stored)
        self._patches: dict[str, Patches | None] = {}
        self._recent = _Recent()

    def tensors(self, media: Sequence[StoredMedia]) -> list[list[dict[str, Any]]]:
        """Return the stored tensors (`shards.schema.TENSOR`) of each media of a document.

        Raises:
            Reject: a media is gone, changed or damaged.
        """
        made: list[list[dict[str, Any]]] = [[] for _ in media]
        for kind, places in self._maker.groups(media):
            if kind == "audio" and self._audio == "waveform":
                for place in places:
                    made[place].append(store_waveform(self._maker.waveform(media[place])))
                continue
            encoding = self._encodings[kind]
            if encoding.alone:
                for place in places:
                    made[place] += self._recent.get(media[place], functools.partial(self._made, kind, encoding))
            else:
                made[places[0]] += self._made(kind, encoding, [media[place] for place in places])
        return made

    def same_as_made(self, media: Sequence[StoredMedia], raised: Sequence[StoredMedia]) -> str | None:
        """Return what differs between the tensors of media and what their stored form gives back; None: nothing."""
        import torch

        made, restored = self._maker.pixels(media), self._maker.pixels(raised)
        for name, tensor in made.items():
            if name in self._leave_out:
                continue
            ours = restored.get(name)
            if ours is None or ours.dtype != tensor.dtype or not torch.equal(ours, tensor):
                return f"{name} made of its stored form is not the processor's"
        return None

    def _made(self, kind: str, encoding: Encoding, structs: Sequence[StoredMedia]) -> list[dict[str, Any]]:
        if encoding.route == "patches":
            found = self._patches_of(kind).of_media(structs[0])
            return [store_array(name, found[name], coded=name in encoding.rules) for name in self._kept(found)]
        if encoding.route == "bytes":
            tensors = self._maker.call(kind, structs, **BYTES)
            return [self._small(name, tensors[name], encoding.rules.get(name)) for name in self._kept(tensors)]
        tensors = self._maker.call(kind, structs)
        return [self._from_floats(name, tensors[name], encoding.rules.get(name)) for name in self._kept(tensors)]

    def _kept(self, tensors: Mapping[str, Any]) -> list[str]:
        return [name for name in tensors if name not in self._leave_out]

    def _patches_of(self, kind: str) -> Patches:
        if kind not in self._patches:
            self._patches[kind] = patches_for(self._maker, kind)
        found = self._patches[kind]
        assert found is not None  # the route was chosen because there are some
        return found

    def _small(self, name: str, tensor: torch.Tensor, rule: Uint8Rule | None) -> dict[str, Any]:
        if rule is None:
            return store_tensor(name, tensor)
        small = as_bytes(tensor)
        once = rule.without_repeats(small) if small is not None else None
        if once is None:
            raise ValueError(f"{name}: no bytes, or a picture's frames differ")
        return store_tensor(name, once, coded=True)

    def _from_floats(self, name: str, tensor: torch.Tensor, rule: Uint8Rule | None) -> dict[str, Any]:
        small = rule.store(tensor) if rule is not None else None
        return store_tensor(name, tensor if small is None else small, coded=small is not None)


class _Recent:
    """The tensors made last: rows that ask about one picture stand together."""

    def __init__(self) -> None:
        self._made: OrderedDict[Any, list[dict[str, Any]]] = OrderedDict()
        self._bytes = 0

    def get(
        self, struct: StoredMedia, make: Callable[[list[StoredMedia]], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Return the tensors of a media, made once while it is remembered."""
        frames = struct["frame_indices"]
        key = (
            struct["kind"],
            tuple(file["digest"] for file in struct["files"]),
            None if frames is None else tuple(int(frame) for frame in frames),
            struct["fps"],
            None if struct.get("segment") is None else tuple(int(place) for place in struct["segment"]),
            None if struct.get("times") is None else tuple(float(time) for time in struct["times"]),
            (int(struct["height"]), int(struct["width"])) if struct.get("scaled") else None,
        )
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        made = make([struct])
        self._made[key] = made
        self._bytes += _size(made)
        while self._bytes > _REMEMBERED and len(self._made) > 1:
            self._bytes -= _size(self._made.popitem(last=False)[1])
        return made


def _size(tensors: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(tensor["data"]) for tensor in tensors)


def raise_media(media: Sequence[StoredMedia], mode: MediaMode, maker: PayloadMaker | None) -> list[dict[str, Any]]:
    """Return a document's media in a higher payload.

    Args:
        media: as they are stored.
        mode: to raise them to.
        maker: for "pixels".

    Raises:
        Reject: a media is gone, changed or damaged.
    """
    if mode == "encoded":
        return [
            {**struct, "files": [{**file, "bytes": file_bytes(file)} for file in struct["files"]]} for struct in media
        ]
    if mode == "reference" or maker is None:
        raise ValueError(f"media are not raised to {mode}")
    return [
        {**struct, "files": [{**file, "bytes": None} for file in struct["files"]], "tensors": tensors}
        for struct, tensors in zip(media, _held(media) or maker.tensors(media), strict=True)
    ]


def _held(media: Sequence[StoredMedia]) -> list[Any] | None:
    """The tensors that media are stored with, which the parts might not make again."""
    held = [struct.get("tensors") for struct in media]
    return None if any(tensors is None for tensors in held) else held
