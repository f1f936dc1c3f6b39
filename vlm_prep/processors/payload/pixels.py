"""A shard's media → the processor's own tensors: pixels, features, masks, sizes, under the processor's names.

Built from what the manifest says of the processor's parts (`PartRecord`), so training needs no tokenizer and no model
folder. The media of one document are given to the transformers image, video or audio processor as the full processor
would give them, and its arithmetic is the only one there is: equality is a matter of the same media, settings and
arguments. A processor that makes tensors outside of its parts, or whose parts are not in transformers, is loaded whole.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import changes
from vlm_prep.core.processor_record import FAMILY_FROM, ProcessorRecord
from vlm_prep.core.records import MediaKind
from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.core.stored_media import StoredMedia
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.payload.join import whole_mask
from vlm_prep.processors.payload.nested import kept
from vlm_prep.processors.payload.pointers import CountingOn, pointers_of
from vlm_prep.processors.payload.stored import CodedTensor, Stored, StoredPayload, coded_tensor, joined, stored_waveform
from vlm_prep.processors.payload.stored_video import has_sound, video_metadata
from vlm_prep.processors.processor_parts import ARGUMENTS, asked_for_tensors
from vlm_prep.processors.quiet import quiet
from vlm_prep.processors.token_types import of_text
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

if TYPE_CHECKING:
    import torch

_KINDS: Mapping[str, None] = dict.fromkeys(get_args(MediaKind))
"""The kinds of media in the order of a processor's calls."""


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

    def __init__(self, runtime: ProcessorRecord, *, whole: Any = None, trust_remote_code: bool = False) -> None:
        self._whole = runtime["whole"]
        self._identity = {name: value for name, value in runtime["identity"].items() if name != FAMILY_FROM}
        self._trusted = trust_remote_code
        self._parts = runtime["parts"]
        self._interleaved = bool(runtime["interleaved"])
        self._stored = {tensor["name"] for tensor in runtime["tensors"]}
        self._rate = runtime["sampling_rate"]
        self._sound = bool(runtime.get("audio_in_video"))
        self._shifted = runtime.get("sound_offset") == "keep"
        self._names = {kind: {name for name, _ in part["outputs"].values()} for kind, part in self._parts.items()}
        self.lists = {name: of for part in self._parts.values() for name, of in part.get("lists", {}).items()}
        self._pointers = pointers_of(self._parts)
        self._axes = Counter(dict(each for part in self._parts.values() for each in part.get("axes", {}).items()))
        self.payload = StoredPayload(runtime.get("payload"), self.names)
        self._decoders: Mapping[str, str] = runtime.get("decoders", {})
        self._told = not self._decoders
        self._made: dict[str, Any] = {} if whole is None else {"whole": whole}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": {}}

    def names(self, kind: str) -> set[str] | None:
        """Return the names of the tensors that are made of a kind of media; None if that is not known."""
        return self._names.get(kind)

    @property
    def needs_whole(self) -> bool:
        """Whether the tensors are made by the full processor, not by its parts."""
        return self._whole is not None

    def takes(self, kind: str) -> bool:
        """Whether the processor has a part for a kind of media."""
        return kind in self._parts

    def settings(self, kind: str) -> dict[str, Any]:
        """Return a part's settings as they hold in a call: its own, and what the processor gives it."""
        record = self._parts[kind]
        return {**record["config"], **record["kwargs"]}

    def part(self, kind: str) -> Any:
        """Return the transformers image, video or audio processor, made once."""
        if kind not in self._made:
            record = self._parts.get(kind)
            if record is None:
                raise StoreError(f"the store has {kind} media and its processor takes none")
            ensure_torchvision()
            with quiet():
                import transformers
            name = record["part_class"]
            cls: Any = getattr(transformers, name, None)
            # a store names the class: nothing else of transformers is made of what it says
            if not _is_part(cls):
                raise StoreError(
                    f"transformers {transformers.__version__} has no image, video or audio processor {name}",
                    "install the version the store was made with, see processor.identity in its manifest.json",
                )
            with quiet():
                self._made[kind] = cls.from_dict(dict(record["config"]))
        return self._made[kind]

    def pixels(self, media: Sequence[StoredMedia], documents: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """Return the tensors of a row's media, as the full processor returns them.

        Args:
            media: of a sample, or of a pack's documents one after the other.
            documents: how many media each document of a pack has: a processor may treat a document's pictures
                together. None for a sample.

        Raises:
            Reject: a file is gone, changed or damaged.
        """
        return {name: joined(parts, self._axes[name]) for name, parts in self.parts(media, documents).items()}

    def coded(
        self, media: Sequence[StoredMedia], documents: Sequence[int] | None = None
    ) -> dict[str, torch.Tensor | CodedTensor]:
        """Return what `pixels` does, with stored bytes left as they are where a tensor is wholly made of them."""
        found = self.parts(media, documents)
        return {name: coded_tensor(a, self._axes[name]) or joined(a, self._axes[name]) for name, a in found.items()}

    def stored(
        self, media: Sequence[StoredMedia], documents: Sequence[int] | None = None
    ) -> dict[str, CodedTensor] | None:
        """Return what `coded` does where every tensor is wholly made of stored bytes, else None; computes nothing."""
        found: dict[str, list[torch.Tensor | Stored]] = {}
        for kind, structs in self._grouped(media, documents):
            stored = self.payload.stored(kind, structs)
            if stored is None:
                return None
            for name, parts in stored.items():
                found.setdefault(name, []).extend(parts)
        coded = {name: coded_tensor(parts, self._axes[name]) for name, parts in found.items()}
        return (
            None if None in coded.values() else {name: tensor for name, tensor in coded.items() if tensor is not None}
        )

    def parts(
        self, media: Sequence[StoredMedia], documents: Sequence[int] | None = None
    ) -> dict[str, list[torch.Tensor | Stored]]:
        """Return what each tensor of a row's media is joined of, see `pixels`."""
        found: dict[str, list[torch.Tensor | Stored]] = {}
        count_on = CountingOn(self._pointers)
        for kind, structs in self._grouped(media, documents):
            made: Mapping[str, Sequence[torch.Tensor | Stored]] | None = self.payload.stored(kind, structs)
            if made is None:
                made = self.made(kind, structs)
            made = count_on(made)
            if documents is not None and len(documents) > 1:
                made = {**made, **self._absent_masks(kind, made)}
            for name, parts in made.items():
                found.setdefault(name, []).extend(parts)
        return found

    def made(self, kind: str, structs: Sequence[StoredMedia]) -> Mapping[str, Sequence[torch.Tensor | Stored]]:
        """Return what the processor's part makes of media that it treats together, by name; see `quick`."""
        return {name: [tensor] for name, tensor in self.call(kind, structs).items()}

    def _absent_masks(
        self, kind: str, made: Mapping[str, Sequence[torch.Tensor | Stored]]
    ) -> dict[str, list[torch.Tensor | Stored]]:
        """The masks that a processor leaves out where a document has one media, since beside others it is padded."""
        part = self._parts.get(kind)
        masks = part.get("masks", {}) if part is not None else {}
        absent = {name: each for name, each in masks.items() if name not in made and each[0] in made}
        return {name: [whole_mask(each.shape, dtype) for each in made[of]] for name, (of, dtype) in absent.items()}

    def _grouped(
        self, media: Sequence[StoredMedia], documents: Sequence[int] | None
    ) -> Iterator[tuple[str, Sequence[StoredMedia]]]:
        """Yield (kind, media) of what the processor treats together, document by document, see `groups`."""
        start = 0
        counts = documents.tolist() if isinstance(documents, np.ndarray) else documents
        for count in [len(media)] if counts is None else counts:
            document = media[start : start + count] if counts is not None else media
            start += count
            for kind, places in self.groups(document):
                yield kind, document if len(places) == len(document) else [document[place] for place in places]

    def groups(self, media: Sequence[StoredMedia]) -> list[tuple[str, list[int]]]:
        """Return (kind, places in a document's media) of what the processor treats together; kind "" is all kinds, for
        a processor that is needed whole. A video with sound is in the group of audio, too."""
        if self._whole is not None:
            return [("", list(range(len(media))))] if media else []
        if self._interleaved:
            return [(struct["kind"], [place]) for place, struct in enumerate(media)]
        found: dict[str, list[int]] = {}
        for place, struct in enumerate(media):
            kind = struct["kind"]
            found.setdefault(kind, []).append(place)
            # the part for audio is given the sound of videos, too
            if self._sound and kind == "video" and has_sound(struct):
                found.setdefault("audio", []).append(place)
        if unknown := found.keys() - _KINDS:
            raise StoreError(f"the store has {', '.join(sorted(unknown))} media, which this version does not know")
        return list(found.items()) if len(found) < 2 else [(kind, found[kind]) for kind in _KINDS if kind in found]

    def call(self, kind: str, structs: Sequence[StoredMedia], **settings: Any) -> dict[str, torch.Tensor]:
        """Return what the processor's part for a kind makes of media that it treats together.

        Args:
            kind: see `groups`.
            structs: the media.
            settings: arguments of the part in place of the processor's own.
        """
        if self._whole is not None:
            return self._by_whole(structs)
        if kind == "audio":
            return self.call_part(kind, [self.waveform(struct) for struct in structs], **settings)
        if kind == "video":
            self._tell_decoder(structs)
        loaded = [_load(struct) for struct in structs]
        return self.call_part(kind, loaded, [video_metadata(each) for each in structs if kind == "video"], **settings)

    def _tell_decoder(self, structs: Sequence[StoredMedia]) -> None:
        """Warn once where video files are decoded here by another version than when the store was made."""
        if self._told or not any(struct.get("decoder") == "pyav" for struct in structs):
            return
        from vlm_prep.media.ffmpeg import decoders

        self._told = True
        if differing := changes(dict(self._decoders), decoders()):
            warnings.warn(
                f"videos were prepared with another decoder: {'; '.join(differing)}; the same frames are taken, and "
                "their last bits may differ",
                stacklevel=2,
            )

    def call_part(
        self, kind: str, loaded: Sequence[Any], metadata: Sequence[Mapping[str, Any]] = (), **settings: Any
    ) -> dict[str, torch.Tensor]:
        """Return what a part makes of decoded media, under the processor's names."""
        import torch

        part = self.part(kind)
        kwargs = {**asked_for_tensors(part), **self._parts[kind]["kwargs"], **settings}
        if kind == "image":
            made = part([list(loaded)], **kwargs)
        elif kind == "video":
            made = part(list(loaded), **{**kwargs, "do_sample_frames": False, "video_metadata": list(metadata)})
        else:
            made = part(list(loaded), **kwargs)
        tensors: dict[str, torch.Tensor] = {}
        for name, (whole_name, leading) in self._parts[kind]["outputs"].items():
            if name in made:
                tensor = torch.as_tensor(np.asarray(made[name]) if isinstance(made[name], list) else made[name])
                tensors[whole_name] = tensor.flatten(0, 1) if leading else tensor
        return tensors

    def waveform(self, struct: StoredMedia) -> Any:
        """Return the sound of an audio file or a video: float32 (samples,) at the model's rate, mono."""
        stored = stored_waveform(struct)
        if stored is not None:
            return stored
        return _load_track(struct, self._rate or 0, self._shifted) if has_sound(struct) else _load(struct, self._rate)

    def _by_whole(self, media: Sequence[StoredMedia]) -> dict[str, torch.Tensor]:
        loaded: dict[str, list[Any]] = {}
        for struct in media:
            kind = struct["kind"]
            loaded.setdefault(kind, []).append(self.waveform(struct) if kind == "audio" else _load(struct))
        metadata = [video_metadata(struct) for struct in media if struct["kind"] == "video"]
        return self.call_whole([struct["kind"] for struct in media], loaded, metadata)

    def call_whole(
        self, kinds: Sequence[str], loaded: Mapping[str, Sequence[Any]], metadata: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, torch.Tensor]:
        """Return the tensors that the full processor makes of a document's decoded media.

        Args:
            kinds: of its media, in their order.
            loaded: the media of each kind.
            metadata: of its videos.
        """
        assert self._whole is not None
        hf = self._full_processor(self._whole)
        call: dict[str, Any] = {"text": ["".join(self._whole["placeholders"].get(kind, "") for kind in kinds)]}
        for kind, name in ARGUMENTS.items():
            if kind in loaded:
                call[name] = loaded[kind] if kind == "audio" else [list(loaded[kind])]
        if metadata:
            call["videos_kwargs"] = {"do_sample_frames": False, "video_metadata": list(metadata)}
        made = hf(**call, return_tensors="pt")
        return {name: each for name, value in made.items() if not of_text(name) and (each := kept(value)) is not None}

    def _full_processor(self, how: Mapping[str, Any]) -> Any:
        if "whole" not in self._made:
            config = ProcessorConfig.from_stored(how["config"])
            if config.trust_remote_code and not self._trusted:
                raise StoreError(
                    f"the store's tensors are made by the Python code that comes with {how['name']}",
                    "pass trust_remote_code=True if you trust it",
                )
            loaded = load_processor(how["name"], config)
            if differing := changes(self._identity, loaded.identity):
                raise StoreError(f"{how['name']} is another processor than the store's", "; ".join(differing))
            self._made["whole"] = loaded.hf
        return self._made["whole"]


def _is_part(cls: Any) -> bool:
    from transformers.feature_extraction_utils import FeatureExtractionMixin
    from transformers.image_processing_base import ImageProcessingMixin

    return inspect.isclass(cls) and issubclass(cls, ImageProcessingMixin | FeatureExtractionMixin)


# media is not imported at the top: training whose shards hold tensors needs no Pillow


def _load(struct: StoredMedia, rate: int | None = None) -> Any:
    from vlm_prep.media.decode import load_media

    return load_media(struct, rate=rate)


def _load_track(struct: StoredMedia, rate: int, shifted: bool) -> Any:
    from vlm_prep.media.decode import load_track

    return load_track(struct, rate=rate, shifted=shifted)
