"""A shard's media → the processor's own tensors: pixels, features, masks, sizes, under the processor's names.

Built from what the manifest says of the processor's parts (`wiring`), so training needs no tokenizer and no model
folder. The media of one document are given to the transformers image, video or audio processor as the full processor
would give them, and its arithmetic is the only one there is: equality is a matter of the same media, settings and
arguments. A processor that makes tensors outside of its parts, or whose parts are not in transformers, is loaded whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from vlm_prep.core.config import ProcessorConfig
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import changes
from vlm_prep.core.types import MediaKind
from vlm_prep.media.load import load_media, load_track
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.processors.wiring import ARGUMENTS, OF_TEXT

if TYPE_CHECKING:
    import torch

MediaStruct = Mapping[str, Any]


class PixelMaker:
    """Makes the processor's tensors from stored media.

    Args:
        runtime: `processor` of a manifest.
        whole: the full processor, where it is loaded already.
        trust_remote_code: run the Python code of a processor that comes with some, if the store was made so.

    Raises:
        StoreError: this transformers has no such image, video or audio processor; or the full processor is needed
            and does not load, is another one, or is not trusted.
    """

    def __init__(
        self, runtime: Mapping[str, Any], *, whole: Any = None, trust_remote_code: bool = False
    ) -> None:
        self._whole: Mapping[str, Any] | None = runtime["whole"]
        self._identity: Mapping[str, str] = runtime["identity"]
        self._trusted = trust_remote_code
        self._parts: Mapping[str, Mapping[str, Any]] = runtime["parts"]
        self._interleaved = bool(runtime["interleaved"])
        self._stored = {tensor["name"] for tensor in runtime["tensors"]}
        self._rate: int | None = runtime["sampling_rate"]
        self._sound = bool(runtime.get("audio_in_video"))
        self._made: dict[str, Any] = {} if whole is None else {"whole": whole}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": {}}

    def part(self, kind: str) -> Any:
        """Return the transformers image, video or audio processor, made once."""
        if kind not in self._made:
            wiring = self._parts.get(kind)
            if wiring is None:
                raise StoreError(f"the store has {kind} media and its processor takes none")
            ensure_torchvision()
            import transformers

            transformers.logging.set_verbosity_error()
            cls = getattr(transformers, wiring["part_class"], None)
            if cls is None:
                raise StoreError(
                    f"transformers {transformers.__version__} has no {wiring['part_class']}",
                    "install the version the store was made with, see processor.identity in its manifest.json",
                )
            self._made[kind] = cls.from_dict(dict(wiring["config"]))
        return self._made[kind]

    def pixels(
        self, media: Sequence[MediaStruct], documents: Sequence[int] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of a row's media, as the full processor returns them.

        Args:
            media: of a sample, or of a pack's documents one after the other.
            documents: how many media each document of a pack has: a processor may treat a document's pictures
                together. None for a sample.

        Raises:
            Reject: a file is gone, changed or damaged.
        """
        if documents is None:
            return self._document(media)
        ends = np.cumsum(documents).tolist()
        parts = [self._document(media[end - count : end]) for count, end in zip(documents, ends, strict=True) if count]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: join([part[name] for part in parts if name in part]) for name in names}

    def _document(self, media: Sequence[MediaStruct]) -> dict[str, torch.Tensor]:
        if self._whole is not None and media:
            return self._by_whole(media, self._whole)
        if self._interleaved:
            groups = [(struct["kind"], [struct]) for struct in media]
        else:
            kinds = get_args(MediaKind)
            if unknown := {struct["kind"] for struct in media} - set(kinds):
                raise StoreError(f"the store has {', '.join(sorted(unknown))} media, which this version does not know")
            groups = [(kind, structs) for kind in kinds if (structs := self._of_kind(kind, media))]
        found: dict[str, list[torch.Tensor]] = {}
        for kind, structs in groups:
            for name, tensor in self._call(kind, structs).items():
                found.setdefault(name, []).append(tensor)
        return {name: join(tensors) for name, tensors in found.items()}

    def _of_kind(self, kind: str, media: Sequence[MediaStruct]) -> list[MediaStruct]:
        """The media that a part is given: the part for audio is given the sound of videos, too."""
        return [each for each in media if each["kind"] == kind or (kind == "audio" and self._sound and has_sound(each))]

    def _call(self, kind: str, structs: Sequence[MediaStruct]) -> dict[str, torch.Tensor]:
        import torch

        part = self.part(kind)
        if kind == "audio":
            loaded: list[Any] = [self._wave(struct) for struct in structs]
        else:
            loaded = [load_media(struct) for struct in structs]
        kwargs = {"return_tensors": "pt", **self._parts[kind]["kwargs"]}
        if kind == "image":
            made = part([loaded], **kwargs)
        elif kind == "video":
            metadata = [video_metadata(struct) for struct in structs]
            made = part(loaded, **{**kwargs, "do_sample_frames": False, "video_metadata": metadata})
        else:
            made = part(loaded, **kwargs)
        tensors: dict[str, torch.Tensor] = {}
        for name, (whole_name, joined) in self._parts[kind]["outputs"].items():
            if name in made:
                tensor = torch.as_tensor(np.asarray(made[name]) if isinstance(made[name], list) else made[name])
                tensors[whole_name] = tensor.flatten(0, 1) if joined else tensor
        return tensors

    def _wave(self, struct: MediaStruct) -> Any:
        if has_sound(struct):
            return load_track(struct, rate=self._rate or 0)
        return load_media(struct, rate=self._rate)

    def _by_whole(self, media: Sequence[MediaStruct], how: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        hf = self._full_processor(how)
        call: dict[str, Any] = {"text": ["".join(how["placeholders"].get(struct["kind"], "") for struct in media)]}
        for kind, name in ARGUMENTS.items():
            loaded = [load_media(struct, rate=self._rate) for struct in media if struct["kind"] == kind]
            if loaded:
                call[name] = loaded if kind == "audio" else [loaded]
        videos = [video_metadata(struct) for struct in media if struct["kind"] == "video"]
        if videos:
            call["videos_kwargs"] = {"do_sample_frames": False, "video_metadata": videos}
        made = hf(**call, return_tensors="pt")
        return {name: tensor for name, tensor in made.items() if name not in OF_TEXT}

    def _full_processor(self, how: Mapping[str, Any]) -> Any:
        if "whole" not in self._made:
            config = ProcessorConfig(**how["config"])
            if config.trust_remote_code and not self._trusted:
                raise StoreError(
                    f"the store's tensors are made by the Python code that comes with {how['name']}",
                    "pass trust_remote_code=True if you trust it",
                )
            loaded = load_processor(how["name"], config)
            if differing := changes(dict(self._identity), loaded.identity):
                raise StoreError(f"{how['name']} is another processor than the store's", "; ".join(differing))
            self._made["whole"] = loaded.hf
        return self._made["whole"]


def join(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors one after the other along their first dimension.

    Where the others differ, they are padded with zeros at the end, as transformers' processors pad a batch (the tiles
    of LLaVA-OneVision, the pictures of Pixtral).
    """
    import torch

    if len(tensors) == 1:
        return tensors[0]
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if all(list(tensor.shape[1:]) == shape for tensor in tensors):
        return torch.cat(list(tensors))
    joined = tensors[0].new_zeros((sum(len(tensor) for tensor in tensors), *shape))
    start = 0
    for tensor in tensors:
        place = (slice(start, start + len(tensor)), *(slice(0, size) for size in tensor.shape[1:]))
        joined[place] = tensor
        start += len(tensor)
    return joined


def has_sound(struct: MediaStruct) -> bool:
    """Whether a stored media is a video with an audio track that was asked for."""
    return struct["kind"] == "video" and struct["samples"] is not None


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


