"""The image and video processors alone: a shard's media → the processor's own pixel tensors.

Built from the settings in a manifest, so training needs no tokenizer and no model folder. Each media is one call of
the transformers image or video processor, whose arithmetic is the only one there is: equality with the full
processor is a matter of giving it the same pixels (media.load) and the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_prep.core.errors import StoreError
from vlm_prep.media.load import load_media
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

if TYPE_CHECKING:
    import torch

MediaStruct = Mapping[str, Any]
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
_GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}


class PixelMaker:
    """Makes pixel tensors from stored media.

    Args:
        runtime: `processor` of a manifest.

    Raises:
        StoreError: this transformers has no such image processor.
    """

    def __init__(self, runtime: Mapping[str, Any]) -> None:
        self._settings = {"image": runtime.get("image_processor"), "video": runtime.get("video_processor")}
        self._made: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_settings": self._settings, "_made": {}}

    def processor(self, kind: str) -> Any:
        """Return the transformers image ("image") or video ("video") processor, made once."""
        if kind not in self._made:
            settings = self._settings[kind]
            if settings is None:
                raise StoreError(f"the store has {kind} media and its processor has no {kind} processor")
            ensure_torchvision()
            import transformers

            transformers.logging.set_verbosity_error()
            cls = getattr(transformers, settings["class"], None)
            if cls is None:
                raise StoreError(
                    f"transformers {transformers.__version__} has no {settings['class']}",
                    f"install the version the store was made with: {self._settings}",
                )
            self._made[kind] = cls.from_dict(dict(settings["config"]))
        return self._made[kind]

    def pixels(self, media: Sequence[MediaStruct]) -> dict[str, torch.Tensor]:
        """Return the pixel tensors of a row's media.

        Returns:
            pixel_values and image_grid_thw if there are pictures, pixel_values_videos and video_grid_thw if there
            are videos: float32 (patches, dim) and int64 (n, 3), in the order of the row.

        Raises:
            Reject: a file is gone, changed or damaged.
        """
        import torch

        parts: dict[str, list[torch.Tensor]] = {}
        for struct in media:
            kind = struct["kind"]
            made = self._one(struct)
            for name in (PIXELS[kind], _GRIDS[kind]):
                parts.setdefault(name, []).append(made[name])
        return {name: tensors[0] if len(tensors) == 1 else torch.cat(tensors) for name, tensors in parts.items()}

    def _one(self, struct: MediaStruct) -> Any:
        loaded = load_media(struct)
        processor = self.processor(struct["kind"])
        if struct["kind"] == "image":
            return processor(images=[loaded], return_tensors="pt")
        return processor(
            videos=[loaded], do_sample_frames=False, video_metadata=[video_metadata(struct)], return_tensors="pt"
        )


def video_metadata(struct: MediaStruct) -> dict[str, Any]:
    """Return what transformers' VideoMetadata holds for a stored video."""
    fps = struct["fps"]
    return {
        "total_num_frames": struct["total_frames"],
        "fps": fps,
        "height": struct["height"],
        "width": struct["width"],
        "duration": struct["total_frames"] / fps if fps else None,
        "frames_indices": [int(index) for index in np.asarray(struct["frame_indices"])],
    }
