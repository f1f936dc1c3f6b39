"""Position ids by the model's own `get_rope_index`, for every mRoPE model of transformers.

The function reads nothing of a model but its config, so it is called on an object of the model's class that has one,
and no layer and no weight. Beside the ids it takes the types of tokens, which follow from them, and the sizes of media
in patches (`image_grid_thw` and its like). Where a store does not hold these, the image processor makes them here of
an empty picture of the same size: a grid depends on nothing else. Sizes repeat, so each is made once.

Families whose rule is written out in `positions` and `omni` do not come here, unless their model's config says other
numbers than these assume: then its own function is asked, too.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import StoreError
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.pack.positions import Mrope
from vlm_prep.processors.model_config import config_of
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.payload.stored_video import video_metadata
from vlm_prep.processors.token_types import TokenValues, values_of

if TYPE_CHECKING:
    import torch

SCHEME = "model"
_GIVEN = ("self", "input_ids", "mm_token_type_ids", "attention_mask", "kwargs", "downsample_mode")
_KINDS = {"image": "1", "video": "2", "audio": "3"}


@dataclass
class ModelRule:
    """How a model counts positions.

    Args:
        config: of the model, as JSON.
        runtime: `processor` of a manifest.
        trust_remote_code: run the Python code of a processor that comes with some.
    """

    config: dict[str, Any]
    runtime: ProcessorRecord
    trust_remote_code: bool = False
    scheme: str = SCHEME
    _sizes: dict[Any, dict[str, NDArray[Any]]] = field(init=False, repr=False, default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in ("config", "runtime", "trust_remote_code", "scheme")}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sizes = {}

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return {"scheme": SCHEME, "config": self.config}

    def positions(self, document: Mapping[str, Any]) -> NDArray[Any]:
        """Return (axes, length) positions of a document: int32, or float32 where the model's are fractions.

        Args:
            document: a row of a tokenized store, with its media.

        Raises:
            ValueError: the model's function does not take the document.
        """
        import torch

        ids = np.asarray(document["input_ids"])
        given: dict[str, Any] = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None]}
        if "mm_token_type_ids" in self._takes:
            given["mm_token_type_ids"] = torch.from_numpy(values_of(ids, self._types))[None]
        if "attention_mask" in self._takes:
            given["attention_mask"] = torch.ones_like(given["input_ids"])
        given |= self._geometry(document)
        try:
            made: torch.Tensor = self._model.get_rope_index(**given)[0][:, 0]
        except Exception as error:  # the model's function raises whatever it raises on a row that it cannot read
            raise ValueError(f"{type(self._model).__name__}.get_rope_index: {type(error).__name__}: {error}") from error
        return made.numpy().astype(np.float32 if made.is_floating_point() else np.int32)

    @cached_property
    def _model(self) -> Any:
        """An object of the model's class, with its config alone."""
        found = model_with_positions(self.config)
        if found is None:
            raise StoreError(f"{self.config.get('model_type')} has no rule for positions of its own")
        cls, config = found
        model = cls.__new__(cls)
        object.__setattr__(model, "config", config)
        vision = getattr(config, "vision_config", None)
        object.__setattr__(model, "spatial_merge_size", getattr(vision, "spatial_merge_size", None))
        return model

    @cached_property
    def _takes(self) -> tuple[str, ...]:
        return tuple(inspect.signature(type(self._model).get_rope_index).parameters)

    @cached_property
    def _types(self) -> Mapping[str, Sequence[int]]:
        by_kind = {_KINDS[kind]: ids for kind, ids in self.runtime["token_types"].items()}
        values: TokenValues = self.runtime.get("token_values", {})
        return values.get("mm_token_type_ids", by_kind)

    @cached_property
    def _wanted(self) -> tuple[str, ...]:
        return tuple(name for name in self._takes if name not in _GIVEN)

    @cached_property
    def _maker(self) -> PixelMaker:
        return PixelMaker(self.runtime, trust_remote_code=self.trust_remote_code)

    def _geometry(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes of a document's media that the function takes, stored or made."""
        import torch

        parts: dict[str, list[NDArray[Any]]] = {}
        stored = {tensor["name"]: tensor["dtype"] for tensor in self.runtime["tensors"]}
        for name in self._wanted:
            if name in stored and name in document and len(document[name]):
                parts[name] = [np.asarray(document[name]).astype(stored[name])]
        made = [self._size(struct) for struct in document["media"]] if set(self._wanted) - set(stored) else []
        for sizes in made:
            for name in self._wanted:
                if name in sizes and name not in stored:
                    parts.setdefault(name, []).append(sizes[name])
        return {name: torch.from_numpy(np.concatenate(each)) for name, each in parts.items()}

    def _size(self, struct: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The tensors of a media that tell its size."""
        if struct["kind"] == "audio":
            return {}
        indices = struct["frame_indices"]
        frames = () if indices is None else tuple(int(index) for index in np.asarray(indices))
        key = (struct["kind"], struct["height"], struct["width"], frames, struct["fps"])
        if key not in self._sizes:
            made = self._made(struct, len(frames))
            found = {name: tensor for name, tensor in made.items() if name in self._wanted}
            self._sizes[key] = {name: np.asarray(tensor) for name, tensor in found.items()}
        return self._sizes[key]

    def _made(self, struct: Mapping[str, Any], frames: int) -> Mapping[str, Any]:
        from PIL import Image

        kind, height, width = struct["kind"], struct["height"], struct["width"]
        metadata = [video_metadata(struct)] if kind == "video" else []
        if kind == "image":
            media: Any = Image.new("RGB", (width, height))
        else:
            media = np.zeros((frames, height, width, 3), np.uint8)
        if self._maker.needs_whole:
            return self._maker.call_whole([kind], {kind: [media]}, metadata)
        return self._maker.call_part(kind, [media], metadata)


Rule = Mrope | ModelRule


def stored_rule(runtime: ProcessorRecord) -> Rule | None:
    """Return how positions are counted, from the `processor` of a packed store's manifest; None for plain ones."""
    settings = runtime.get("mrope")
    if settings is None:
        return None
    if settings.get("scheme") == SCHEME:
        return ModelRule(settings["config"], runtime)
    return Mrope.of(settings)


def model_with_positions(data: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Return the class of a model that has `get_rope_index`, and its config; None if the model has none.

    Args:
        data: the whole model's config, as JSON.
    """
    config = config_of(data)
    if config is None:
        return None
    config = getattr(config, "thinker_config", config)
    name = type(config).__module__.replace("configuration_", "modeling_")
    try:
        __import__(name)
    except ImportError:
        return None
    found = [
        each
        for each in vars(sys.modules[name]).values()
        if isinstance(each, type) and hasattr(each, "get_rope_index") and each.__module__ == name
    ]
    own = [each for each in found if getattr(each, "config_class", None) is type(config)]
    named = [each for each in found if each.__name__.endswith("Model") or "Thinker" in each.__name__]
    chosen = next(iter([*own, *named, *found]), None)
    return None if chosen is None else (chosen, config)
