"""How media become the tensors that a shard stores of them: found out once, by looking at what a part makes of noise.

    patches   our own decode, resize and layout in uint8, where they give what the part gives (`patches`)
    bytes     the part, told to leave out its last arithmetic, returns uint8
    floats    the part as it is; its floats are made of 256 values, so that uint8 can be told from them
    exact     none of these: the tensors are stored as they are

Other tensors (masks, positions, tiles of pictures that are resized in float) are always stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.settings import AudioPayload
from vlm_prep.processors.payload.join import join
from vlm_prep.processors.payload.patches import Patches, patches_for
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.payload.uint8 import VALUES, Uint8Rule, find_rule, layouts, split_by_channel

if TYPE_CHECKING:
    import torch

Route = Literal["patches", "bytes", "floats", "exact"]
Tensors = dict[str, "torch.Tensor"]
BYTES: Mapping[str, Any] = {"do_rescale": False, "do_normalize": False}
_SIZES = ((300, 420), (64, 64), (1000, 700), (448, 448))
"""(height, width) of the noise: pictures that are enlarged, reduced, cut into tiles, and left as they are."""
_TOGETHER = 3
"""Of these, so many make a document: they have different numbers of tiles."""
_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the tensors of one kind of media are stored; JSON-ready."""

    route: Route
    rules: Mapping[str, Uint8Rule]
    """Tensors stored as uint8, by their names."""
    alone: bool
    """Whether several media of a document become what they become one by one."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        codings = {name: rule.to_json() for name, rule in self.rules.items()}
        return {"route": self.route, "codings": codings, "alone": self.alone}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Encoding:
        """Read what `to_json` wrote."""
        rules = {name: Uint8Rule.from_json(rule) for name, rule in data["codings"].items()}
        return cls(route=data["route"], rules=rules, alone=data["alone"])


def describe_payload(maker: PixelMaker, kinds: Sequence[str], audio: AudioPayload) -> dict[str, Any]:
    """Return how media are stored as tensors, JSON-ready, for a manifest's `processor`.

    Raises:
        ProcessorError: the processor returns tensors in lists.
    """
    if maker.lists:
        raise ProcessorError(
            f"`media=pixels`: the processor returns {', '.join(sorted(maker.lists))} in lists of tensors, which shards "
            "do not hold",
            "`media` reference or encoded: they are made when a row is read",
        )
    encodings = {kind: find_encoding(maker, kind) for kind in ([""] if maker.needs_whole else kinds)}
    return {"forms": {kind: encoding.to_json() for kind, encoding in encodings.items()}, "audio": audio}


def find_encoding(maker: PixelMaker, kind: str) -> Encoding:
    """Return how the tensors of a kind of media are stored, found out with noise; of all kinds for kind ""."""
    if kind == "audio" or (maker.needs_whole and not maker.takes("image")):
        return Encoding(route="exact", rules={}, alone=False)
    try:
        probes = _Probes(maker, kind or "image")
    except Exception:  # whatever a part raises on sizes that it does not take (no multiples of its patch)
        return Encoding(route="exact", rules={}, alone=False)
    if not probes.are_alike:
        return Encoding(route="exact", rules={}, alone=False)
    if maker.needs_whole:
        rules = probes.rules_by_floats()
        return Encoding(route="floats" if rules else "exact", rules=rules, alone=False)
    alone = probes.alone()
    rules = probes.rules_by_bytes()
    if rules:
        patches = patches_for(maker, kind)
        same = alone and patches is not None and probes.equal_to(patches, rules)
        return Encoding(route="patches" if same else "bytes", rules=rules, alone=alone)
    rules = probes.rules_by_floats()
    return Encoding(route="floats" if rules else "exact", rules=rules, alone=alone)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor as uint8; None if it holds other values. Some parts return theirs in floats."""
    import torch

    if tensor.dtype == torch.uint8:
        return tensor
    small = tensor.to(torch.uint8)
    return small if torch.equal(small.to(tensor.dtype), tensor) else None


class _Probes:
    """Noise, and what a part makes of it."""

    def __init__(self, maker: PixelMaker, kind: str) -> None:
        self._maker, self._kind = maker, kind
        draws = np.random.default_rng(0)
        depth = (_FRAMES,) if kind == "video" else ()
        self.media = [draws.integers(0, 256, (*depth, *size, 3), np.uint8) for size in _SIZES]
        self._floats = [self._call([media]) for media in self.media]
        self._settings = maker.settings(kind)

    def _call(self, media: Sequence[NDArray[np.uint8]], **settings: Any) -> Tensors:
        from PIL import Image

        pictures = [Image.fromarray(each) for each in media] if self._kind == "image" else []
        if self._maker.needs_whole:
            return self._maker.call_whole(["image"] * len(pictures), {"image": pictures})
        if self._kind == "image":
            return self._maker.call_part("image", pictures, **settings)
        metadata = [
            {
                "total_num_frames": len(each),
                "fps": 2.0,
                "height": each.shape[1],
                "width": each.shape[2],
                "duration": len(each) / 2,
                "frames_indices": list(range(len(each))),
            }
            for each in media
        ]
        return self._maker.call_part("video", media, metadata, **settings)

    @property
    def are_alike(self) -> bool:
        """Whether all media have the same tensors: some parts make one more of large pictures."""
        return len({frozenset(made) for made in self._floats}) == 1

    def alone(self) -> bool:
        """Whether media together become what they become one by one."""
        import torch

        try:
            together = self._call(self.media[:_TOGETHER])
        except Exception:  # processors refuse several in a document in many ways; then no row has several
            return True
        single = {name: join([each[name] for each in self._floats[:_TOGETHER]]) for name in together}
        return all(torch.equal(together[name], single[name]) for name in together)

    def rules_by_bytes(self) -> dict[str, Uint8Rule]:
        """Return rules of the tensors that the part returns as uint8 without its last arithmetic."""
        import torch

        small = [self._call([media], **BYTES) for media in self.media]
        found = {}
        for name in self._float_names():
            pairs = [(as_bytes(less[name]), made[name]) for less, made in zip(small, self._floats, strict=True)]
            both = [(less, made) for less, made in pairs if less is not None and less.shape == made.shape]
            rule = find_rule(both, self._settings, frames=self._frames()) if len(both) == len(pairs) else None
            if rule is None:
                return {}
            found[name] = rule
        others = self._floats[0].keys() - found.keys()
        same = all(
            torch.equal(less[name], made[name])
            for name in others
            for less, made in zip(small, self._floats, strict=True)
        )
        return found if same else {}

    def rules_by_floats(self) -> dict[str, Uint8Rule]:
        """Return rules of the tensors of which each channel has 256 values."""
        found = {}
        for name in self._float_names():
            rule = _rule_of_floats([made[name] for made in self._floats], self._settings, self._frames())
            if rule is not None and all(rule.store(made[name]) is not None for made in self._floats):
                found[name] = rule
        return found

    def equal_to(self, patches: Patches, rules: Mapping[str, Uint8Rule]) -> bool:
        """Whether our own way gives the part's tensors."""
        import torch

        for media, made in zip(self.media, self._floats, strict=True):
            ours = patches.tensors(np.pad(media, ((0, 0), (0, 0), (0, 1))))
            if ours.keys() != made.keys():
                return False
            for name, array in ours.items():
                tensor = torch.from_numpy(array)
                full = rules[name].restore(tensor) if name in rules else tensor
                if full.dtype != made[name].dtype or not torch.equal(full, made[name]):
                    return False
        return True

    def _float_names(self) -> list[str]:
        import torch

        return [name for name, each in self._floats[0].items() if each.dtype == torch.float32 and each.dim() > 1]

    def _frames(self) -> int:
        return int(self._settings.get("temporal_patch_size") or 1) if self._kind == "image" else 1


def _rule_of_floats(made: Sequence[torch.Tensor], settings: Mapping[str, Any], frames: int) -> Uint8Rule | None:
    import torch

    for axis, size in layouts(made[0].shape):
        views = [tensor.contiguous().view(-1, *split_by_channel(tensor.shape, axis, size)) for tensor in made]
        channels = range(views[0].shape[1])
        values = [torch.cat([view[:, channel].flatten() for view in views]) for channel in channels]
        levels = [torch.from_numpy(np.unique(each.numpy())) for each in values]
        if any(len(each) != VALUES for each in levels):
            continue
        pairs = []
        for view, tensor in zip(views, made, strict=True):
            found = [torch.searchsorted(levels[channel], view[:, channel].contiguous()) for channel in channels]
            pairs.append((torch.stack(found, 1).to(torch.uint8).view(tensor.shape), tensor))
        return find_rule(pairs, settings, frames=frames)
    return None
