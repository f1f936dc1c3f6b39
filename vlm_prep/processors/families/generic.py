"""Any other processor: by watching what it does with one media and one placeholder.

Nothing is assumed of its code but that it is called as processors are: `processor(text=, images=, videos=, audio=)`.
Its placeholder is found by rendering a media part; what the placeholder becomes is read off the ids of a call with one
media. Whether the picture's size is enough is tried out: pictures of one size, empty, noisy and with wide margins, must
become the same text, and a picture must become the same beside others; if not, the real processor is run on the real
media of every row (level full).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import Media, MediaHeader, MediaItem, MediaKind
from vlm_prep.media.decode import load_media, media_struct
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Expansion, Level, Size, Video
from vlm_prep.processors.frames import video_metadata
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.processors.model_positions import Positions, positions_of
from vlm_prep.processors.processor_parts import ARGUMENTS, part_of

_SENTINEL = "vlmprepsentinel"
_TRIED: tuple[Size, ...] = ((64, 96), (224, 224), (333, 777))


class Generic(Adapter):
    """A processor of no known family.

    Raises:
        ProcessorError: it cannot be understood: no placeholder, or a replacement that does not tokenize by itself.
    """

    family = "generic"

    def __init__(self, loaded: LoadedProcessor) -> None:
        super().__init__(loaded)
        same = "image" not in self.kinds or (self._size_is_enough() and not self._sees_others())
        level: Level = "by size" if same else "full"
        self.levels = {kind: level if kind == "image" else "full" for kind in self.kinds}

    def find_placeholders(self) -> dict[str, MediaKind]:
        """See `Adapter.find_placeholders`."""
        self.notes: list[str] = []
        found = super().find_placeholders()
        for kind in get_args(MediaKind):
            if kind not in found.values() and part_of(self.hf, kind) is not None:
                token = self._rendered_placeholder(kind)
                if token is not None:
                    found.setdefault(token, kind)
        self.placeholders = found
        return {token: kind for token, kind in found.items() if self._works(kind)}

    def _works(self, kind: MediaKind) -> bool:
        try:
            self._ids_of(kind, self._tiny(kind), **self._tiny_options(kind))
        except Exception as error:  # whatever the processor raises: it does not take this kind the usual way
            self.notes.append(f"{kind} media are not taken: {type(error).__name__}: {error}")
            return False
        return True

    def find_run_tokens(self) -> tuple[str, ...]:
        """See `Adapter.find_run_tokens`: the added tokens that stand there twice or more in a row."""
        added = {int(index): str(token) for index, token in self.hf.tokenizer.added_tokens_decoder.items()}
        tokens = dict.fromkeys(self.placeholders)
        for kind in self.kinds_of_parts():
            ids = self._ids_of(kind, self._tiny(kind), **self._tiny_options(kind))
            tokens |= dict.fromkeys(added[i] for i, group in groupby(ids) if i in added and len(list(group)) > 1)
        return tuple(token for token in tokens if self.hf.tokenizer.convert_tokens_to_ids(token) is not None)

    def kinds_of_parts(self) -> tuple[MediaKind, ...]:
        """Return the kinds that have a placeholder."""
        return tuple(kind for kind in get_args(MediaKind) if kind in self.placeholders.values())

    def expand(self, media: Sequence[Media], stored: Sequence[Mapping[str, Any]] = ()) -> tuple[Expansion, ...]:
        """See `Adapter.expand`."""
        structs: list[Mapping[str, Any] | None] = [*stored] if stored else [None] * len(media)
        return tuple(self._expand_one(item, struct) for item, struct in zip(media, structs, strict=True))

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`."""
        from PIL import Image

        return {"texts": [self._text_of("image", Image.new("RGB", (w, h))) for h, w in sizes]}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """Raise: videos are expanded from their frames, see `_expand_real`."""
        raise TypeError(f"{self.family}: a video's text is made of its frames, not of its size")

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`."""
        text: str = inputs["texts"][index]
        return text

    @property
    def positions(self) -> Positions:
        """See `Adapter.positions`."""
        return positions_of(type(self.hf))

    def _expand_one(self, item: Media, struct: Mapping[str, Any] | None) -> Expansion:
        if self.levels[item.kind] == "by size" and item.header is not None:
            return self._images(((item.header.height, item.header.width),))[0]
        return self._expand_real(item, struct)

    def _expand_real(self, item: Media, struct: Mapping[str, Any] | None) -> Expansion:
        header = item.header
        if header is None:
            raise ValueError("expand needs a probed media")
        indices, fps = self.frames_of(item) if item.kind == "video" else (None, None)
        if struct is None:
            stored = MediaItem(
                kind=item.kind,
                uris=item.uris,
                digests=header.digests,
                data=None,
                height=header.height,
                width=header.width,
                frame_list=item.frame_list,
                frame_indices=indices,
                fps=fps,
                total_frames=header.total_frames,
            )
            struct = media_struct(stored)
        loaded = load_media(struct, rate=self.sampling_rate)
        options = self.call_options([video_metadata(header, fps, indices)]) if indices is not None else {}
        run = self.finder.find(self._text_of(item.kind, loaded, **options))
        return Expansion(text=run.text, runs=run.runs, frame_indices=indices, fps=fps)

    def _text_of(self, kind: MediaKind, media: Any, **options: Any) -> str:
        """The text that a placeholder becomes, read off the ids of a call with this media alone."""
        tokenizer = self.hf.tokenizer
        ids = self._ids_of(kind, media, **options)
        added = {int(index): str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        text = "".join(
            "".join(added[i] for i in group) if special else tokenizer.decode(list(group))
            for special, group in groupby(ids, key=added.__contains__)
        )
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            raise ProcessorError(
                f"{self.loaded.name}: what its {kind} placeholder becomes cannot be written as text: {text[:120]!r}"
            )
        return text

    def _ids_of(self, kind: MediaKind, media: Any, **options: Any) -> list[int]:
        """The ids that the placeholder of one media becomes, without what the tokenizer puts around a text."""
        token = next(text for text, each in self.placeholders.items() if each == kind)
        argument = [[media]] if kind != "audio" else [media]
        rate = {"sampling_rate": self.sampling_rate} if kind == "audio" else {}
        made = self.hf(text=[token], **{ARGUMENTS[kind]: argument}, **rate, **options)
        ids = [int(i) for i in np.asarray(made["input_ids"][0])]
        first, last = self.added_around
        ids = ids[len(first) :] if ids[: len(first)] == list(first) else ids
        return ids[: len(ids) - len(last)] if last and ids[-len(last) :] == list(last) else ids

    def _rendered_placeholder(self, kind: MediaKind) -> str | None:
        """What the chat template writes for a media part, between two texts."""
        part = {"type": "text", "text": _SENTINEL}
        content = [part, {"type": kind}, part]
        try:
            text = self.hf.apply_chat_template(
                [{"role": "user", "content": content}], chat_template=self.loaded.chat_template, tokenize=False
            )
        except Exception as error:  # templates raise whatever their expressions raise
            raise ProcessorError(f"{self.loaded.name}: its chat template refuses a media part: {error}") from error
        between = str(text).split(_SENTINEL)
        added = self.hf.tokenizer.get_added_vocab()
        found = [token for token in added if len(between) > 2 and token in between[1]]
        return max(found, key=len) if found else None

    def _size_is_enough(self) -> bool:
        """Whether pictures of one size become one text, whatever they show: a processor might cut off empty edges."""
        from PIL import Image

        for height, width in _TRIED:
            texts = {self._text_of("image", Image.fromarray(pixels)) for pixels in _pictures(height, width)}
            if len(texts) > 1:
                return False
        return True

    def _sees_others(self) -> bool:
        """Whether three pictures in one call become other ids than each alone."""
        from PIL import Image

        token = next(text for text, kind in self.placeholders.items() if kind == "image")
        pictures = [Image.new("RGB", (width, height)) for height, width in _TRIED]
        made = self.hf(text=[token * len(pictures)], images=[pictures])
        together = [int(i) for i in np.asarray(made["input_ids"][0])]
        # as one text: what one ends with may merge with what the next begins with
        text = "".join(self._text_of("image", picture) for picture in pictures)
        alone = self.hf.tokenizer(text, add_special_tokens=False)["input_ids"]
        return not any(together[i : i + len(alone)] == alone for i in range(len(together)))

    def _tiny_options(self, kind: MediaKind) -> dict[str, Any]:
        header = MediaHeader(height=64, width=96, total_frames=4, fps=2.0)
        return self.call_options([video_metadata(header, 2.0, (0, 1, 2, 3))]) if kind == "video" else {}

    def _tiny(self, kind: MediaKind) -> Any:
        from PIL import Image

        if kind == "image":
            return Image.new("RGB", (96, 64))
        if kind == "audio":
            return np.zeros(self.sampling_rate or 16_000, np.float32)
        return cast(Any, np.zeros((4, 64, 96, 3), np.uint8))


def _pictures(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Black, white, noise, and noise within a black and a white margin, uint8 (height, width, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    found = [np.full_like(noise, 0), np.full_like(noise, 255), noise]
    middle = (slice(height // 4, height // 2), slice(width // 3, width // 2))
    for margin in (0, 255):
        framed = np.full_like(noise, margin)
        framed[middle] = noise[middle]
        found.append(framed)
    return found
