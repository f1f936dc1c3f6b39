"""How a processor uses its image, video and audio processor: seen by watching one call, not read from its source.

Training needs the processor's tensors without its tokenizer. So one tiny media is put through the whole processor with
its part under watch: what arguments the part was given, what it returned, and under which names the whole returned
that. The runtime then calls the part alone with the same arguments (`pixels.PixelMaker`). A tensor of the whole that no
part made is either stored in the row (`Adapter.geometry`) or makes the runtime use the whole processor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import orjson

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.processor_record import PartFields
from vlm_prep.core.records import MediaKind
from vlm_prep.processors.blank_media import LARGER
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.load import PARTS
from vlm_prep.processors.payload.nested import Nested, kept
from vlm_prep.processors.token_types import TokenValues, join_values, of_text, read_values

ARGUMENTS: Mapping[MediaKind, str] = {"image": "images", "video": "videos", "audio": "audio"}
"""The arguments of a processor's call."""
_OF_THE_ROW = ("video_metadata", "do_sample_frames")


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """One part of a processor and how it is used; JSON-ready, it travels in the manifest."""

    part_class: str
    config: dict[str, Any]
    """The part's own settings."""
    kwargs: dict[str, Any]
    """What the processor gives it with every call, beside the media and what belongs to a row."""
    outputs: dict[str, tuple[str, int]]
    """{name the part returns: (name the processor returns, leading dimensions that it joins)}."""
    added: tuple[str, ...]
    """Tensors of the processor that the part does not make."""
    types: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """What the call said of its tokens, see `token_types.TokenValues`."""
    masks: dict[str, tuple[str, str]] = field(default_factory=dict)
    """{mask of a tensor's second dimension: (that tensor, its dtype)}. Some are returned only with several media
    in a row; media of several rows in a batch need them as well."""
    axes: dict[str, int] = field(default_factory=dict)
    """{tensor: the dimension along which media are joined}, where it is not the first (MiniCPM-V lays them side by
    side). A processor that lays pictures so lays the frames of videos so."""
    lists: dict[str, str] = field(default_factory=dict)
    """{tensor that comes in lists: "media" where these have an entry for each media or more, "row" where one for each
    row, see `payload.nested`}."""

    trims: dict[str, str] = field(default_factory=dict)
    """{tensor: the mask of its last dimension}, where the model reads what the mask keeps and nothing else, so that a
    batch need not reach further than its longest media."""

    def to_json(self) -> PartFields:
        """Return a JSON-ready dict."""
        return cast(PartFields, asdict(self))


def part_of(hf: Any, kind: MediaKind) -> tuple[str, Any] | None:
    """Return the attribute and the part that handles a kind of media, or None."""
    for name in PARTS[kind]:
        part = getattr(hf, name, None)
        if part is not None:
            return name, part
    return None


def asked_for_tensors(part: Any) -> dict[str, str]:
    """Return the argument that asks a part for tensors; none for one that makes nothing else (Granite Speech)."""
    taken = inspect.signature(part.__call__).parameters
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    return {"return_tensors": "pt"} if open_ended or "return_tensors" in taken else {}


def in_transformers(record: PartRecord) -> bool:
    """Whether the part can be made from its settings alone: transformers has its class."""
    import transformers

    return hasattr(transformers, record.part_class)


class _Watched:
    """A part that remembers its last call."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self.kwargs: dict[str, Any] = {}
        self.made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def __call__(self, *media: Any, **kwargs: Any) -> Any:
        made = self._part(*media, **kwargs)
        # a copy: processors take entries out of what they were returned
        self.kwargs, self.made = kwargs, dict(made)
        return made


@dataclass
class _Seen:
    """What calls of a processor that worked returned, put together."""

    outputs: dict[str, tuple[str, int]] = field(default_factory=dict)
    media: set[str] = field(default_factory=set)
    types: list[TokenValues] = field(default_factory=list)
    """One for each call."""
    masks: dict[str, tuple[str, str]] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    shapes: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    lists: dict[str, str] = field(default_factory=dict)

    def add(self, whole: Mapping[str, Any], watched: _Watched) -> None:
        """Add what a call returned, and what its part was given and made."""
        media = {key: value for key, value in whole.items() if not of_text(key)}
        self.outputs |= _matched(watched.made, media)
        self.media |= media.keys()
        self.types.append(read_values(whole))
        self.masks |= _masks({name: media[name] for name, _ in self.outputs.values() if name in media})
        self.kwargs = watched.kwargs
        self.lists = _lists(media, self.lists)
        self.shapes.append({key: tuple(value.shape) for key, value in media.items() if hasattr(value, "shape")})

    def record(self, part: Any) -> PartRecord:
        """Return what that says of the part. Raises as `observe`."""
        own = (*_OF_THE_ROW, *ARGUMENTS.values())
        given = {key: value for key, value in self.kwargs.items() if key not in own and value is not None}
        try:
            kwargs = orjson.loads(orjson.dumps(given, default=_plain))
            config = orjson.loads(part.to_json_string())
        except (TypeError, orjson.JSONDecodeError) as error:
            raise ProcessorError(f"{type(part).__name__}: a setting cannot be written as JSON: {error}") from error
        return PartRecord(
            part_class=type(part).__name__,
            config=config,
            kwargs=kwargs,
            outputs=self.outputs,
            added=tuple(sorted(self.media - {name for name, _ in self.outputs.values()})),
            types=join_values(self.types),
            masks=self.masks,
            axes=_side_by_side(self.shapes),
            lists=self.lists,
        )


def observe(
    hf: Any,
    kind: MediaKind,
    small_calls: Callable[[MediaKind, int], Sequence[Mapping[str, Any]]],
    scale: int = 1,
) -> PartRecord:
    """Return how `hf` uses its part for `kind`.

    Args:
        hf: the processor.
        kind: of media.
        small_calls: gives the arguments of calls of `hf` with media of this kind, by that many times larger, and their
            placeholders. Some tensors are returned only for several media, or only for large ones, and not every
            processor takes several: what it returns in the calls that work is put together.
        scale: of the media; where no call works, larger ones are tried.

    Raises:
        ProcessorError: none of them works, or the part's settings cannot be written as JSON.
    """
    found = part_of(hf, kind)
    if found is None:
        raise ValueError(f"{type(hf).__name__} has no part for {kind}")
    name, part = found
    watched, seen = _Watched(part), _Seen()
    fault: Exception | None = None
    setattr(hf, name, watched)
    try:
        for call in small_calls(kind, scale):
            try:
                whole = dict(hf(**call))
            except Exception as error:  # whatever a processor raises: it does not take such media together
                fault = fault or error
                continue
            seen.add(whole, watched)
    finally:
        setattr(hf, name, part)
    if not seen.types and scale == 1:
        return observe(hf, kind, small_calls, LARGER)
    if not seen.types:
        words = said(fault) if fault is not None else "there is none"
        raise ProcessorError(f"{type(hf).__name__} does not take a small {kind}: {words}") from fault
    return seen.record(part)


def small_calls(
    kind: MediaKind, text: str, rate: int, options: Mapping[str, Any], scale: int = 1
) -> list[dict[str, Any]]:
    """Return the arguments of calls with small media: two that differ in size, and one for where that fails.

    Args:
        kind: of media.
        text: what stands for one media.
        rate: samples a second of waveforms.
        options: further arguments, for a video of 4 frames.
        scale: of pictures and frames, for processors that take none as small as ours.
    """
    from PIL import Image

    one: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
    two = {**one, "text": [text * 2]}
    if kind == "image":
        pictures = [Image.new("RGB", (scale * width, scale * height)) for width, height in ((96, 64), (64, 128))]
        return [{**two, "images": [pictures]}, {**one, "images": [pictures[:1]]}]
    if kind == "audio":
        waves = [np.zeros(count, np.float32) for count in (rate, rate // 2)]
        one["sampling_rate"] = two["sampling_rate"] = rate
        return [{**two, "audio": waves}, {**one, "audio": waves[:1]}]
    return [{**one, ARGUMENTS[kind]: [[np.zeros((4, 64 * scale, 96 * scale, 3), np.uint8)]], **options}]


def _plain(value: Any) -> Any:
    if hasattr(value, "value"):  # an enum such as TensorType
        return value.value
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return dict(value.items())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__}")


def _matched(made: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return under which name the processor returns what the part made: equal values, the same name first."""
    outputs: dict[str, tuple[str, int]] = {}
    for name, tensor in whole.items():
        candidates = [name, *(other for other in made if other not in whole)]
        for candidate in candidates:
            joined = _joined_dimensions(made[candidate], tensor) if candidate in made else None
            if joined is not None and candidate not in outputs:
                outputs[candidate] = (name, joined)
                break
    return outputs


def _masks(tensors: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return which tensors say how far others reach: two-dimensional ones called masks, and what they are masks of."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if hasattr(tensor, "shape")}
    found: dict[str, tuple[str, str]] = {}
    for name in (name for name, shape in shapes.items() if "mask" in name and len(shape) == 2):
        of = next((other for other, shape in shapes.items() if len(shape) > 2 and shape[:2] == shapes[name]), None)
        if of is not None:
            found[name] = (of, str(tensors[name].dtype).removeprefix("torch."))
    return found


def _side_by_side(calls: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, int]:
    """Return the last dimension of tensors that alone grows from one media to two, as `PartRecord.axes`."""
    found: dict[str, int] = {}
    for name, two in calls[0].items() if len(calls) > 1 else ():
        one = calls[1].get(name, ())
        if len(one) == len(two) > 2 and one[0] == 1 and one[:-1] == two[:-1] and one[-1] < two[-1]:
            found |= {name: len(one) - 1, f"{name}_videos": len(one) - 1}
    return found


def _lists(media: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """Return `PartRecord.lists` of what one more call returned."""
    nested = {name: each for name, value in media.items() if isinstance(each := kept(value), Nested)}
    a_row = {name for name, each in nested.items() if len(each) == 1 and isinstance(each[0], Nested)}
    return {**known, **{name: "row" if name in a_row else known.get(name, "media") for name in nested}}


def _joined_dimensions(part: Any, whole: Any) -> int | None:
    """Return 0 if both are equal, 1 if they are once the first two dimensions of `part` are joined, else None."""
    import torch

    try:
        left, right = torch.as_tensor(np.asarray(part)), torch.as_tensor(np.asarray(whole))
    except (TypeError, ValueError):
        return None  # no tensor: metadata, or a list of tensors of several shapes
    if left.dtype != right.dtype:
        return None
    if left.shape == right.shape:
        return 0 if torch.equal(left, right) else None
    if left.dim() > 1 and left.flatten(0, 1).shape == right.shape and torch.equal(left.flatten(0, 1), right):
        return 1
    return None
