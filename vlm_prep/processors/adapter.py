"""What tokenizing asks of any model family, answered for every processor that is written the way transformers' are.

The seam lies in transformers itself: a processor gives each media to its image, video or audio processor, and writes
the text that replaces the media's placeholder from what that part returned (`replace_image_token` and its like). What
the text depends on is the media's *dimensions*. So an adapter makes that part's answer without pixels:

    formula   a family module computes it (a grid, a number of tiles) from the dimensions
    by size   the real part is run on a blank media of that size, once per size
    full      the real part is run on the real media

and the processor's own `replace_*_token` does the rest. All three give the same ids; which one is used is recorded.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import ProcessorError, Reject, RejectReason
from vlm_prep.core.records import Media, MediaHeader, MediaKind, Message
from vlm_prep.media.audio import resampled_length
from vlm_prep.processors.expansion import Expansion, Level, Size, Tensor, Video, as_reject, check_frames
from vlm_prep.processors.frames import choose_frames, video_metadata
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.processors.model_positions import Positions
from vlm_prep.processors.processor_parts import PartRecord, observe, part_of, small_calls
from vlm_prep.processors.runs import RunFinder, ids_of

_CACHED, _OTHER = 65536, "another `processor` may take it"


class Adapter(ABC):
    """A model family over a loaded processor.

    Raises:
        ProcessorError: the processor does not work on a tiny media of a kind that it says it takes.
    """

    family: ClassVar[str]
    """The name in tables and manifests."""
    levels: Mapping[MediaKind, Level] = {}
    """How token counts are found, for each kind; by size where nothing is said."""
    geometry: tuple[Tensor, ...] = ()
    """The tensors that are stored."""
    needs_time: ClassVar[bool] = False
    """Whether a list of frames must state its frame rate."""
    writes_times: ClassVar[bool] = False
    """Whether the processor writes the time of frames into the text, by its metadata's `timestamps`."""
    look_at_each_other: bool = False
    """Whether a picture becomes other tokens when it is not the only one."""
    stacks_videos: ClassVar[bool] = False
    """Whether the videos of a row go into one tensor, so that all must have as many frames."""
    interleaved: ClassVar[bool] = False
    """Whether the processor returns the tensors of pictures and videos in one, in the order of the row."""
    unresized: ClassVar[bool] = False
    """Whether the family's arithmetic holds where a processor does not resize (`do_resize`)."""
    unplaced: ClassVar[tuple[MediaKind, ...]] = ()
    """Kinds that it takes without a placeholder in the text."""
    thinking_prefix: ClassVar[tuple[str, str] | None] = None
    """The header of a model turn, and what `thinking_prefix` writes behind it."""
    prompts_are_tokens: ClassVar[bool] = False
    """Whether its prompts are made of control tokens, so that those of the data act."""
    stands_in: ClassVar[bool] = True
    """Whether a batch of text may hold a picture that nothing real sees, see `stand_in`."""
    interleaves_sound: ClassVar[bool] = False
    """Whether the processor can write a video's sound among its frames."""
    notes: Sequence[str] = ()
    """Lines to tell the user once."""
    answer_types: ClassVar[str | None] = None
    """The tensor that is 1 for the tokens of a row's answer, which the processor tokenizes by itself."""
    needs_media: bool = False
    """Whether the processor takes no text without media."""

    def __init__(self, loaded: LoadedProcessor) -> None:
        self.loaded, self.hf = loaded, loaded.hf
        self.refusals: dict[MediaKind, str] = {}
        self.audio_in_video = loaded.config.audio_in_video
        if self.audio_in_video and not self.interleaves_sound:
            raise ProcessorError(
                f"`audio_in_video`: {self.family} ({type(self.hf).__name__}) puts no sound among a video's frames",
                "leave it out; Qwen2.5-Omni and Qwen3-Omni do",
            )
        self.placeholders = self.find_placeholders()
        taken = {*self.placeholders.values(), *self.unplaced}
        self.kinds: tuple[MediaKind, ...] = tuple(kind for kind in get_args(MediaKind) if kind in taken)
        self.run_tokens = self.find_run_tokens()
        self.run_ids = ids_of(self.run_tokens, loaded)
        self.finder = RunFinder(self.run_tokens)
        self._images = lru_cache(maxsize=_CACHED)(self._expand_images)
        self._audio = lru_cache(maxsize=_CACHED)(self._expand_audio)
        self._part_records: dict[MediaKind, PartRecord] = {}

    # what a family may say differently

    def find_placeholders(self) -> dict[str, MediaKind]:
        """Return the texts that stand for one media each in the rendered conversation."""
        found: dict[str, MediaKind] = {}
        for kind in get_args(MediaKind):
            token = getattr(self.hf, f"{kind}_token", None)
            if token is not None and part_of(self.hf, kind) is not None:
                found.setdefault(str(token), kind)
        return found

    def find_run_tokens(self) -> tuple[str, ...]:
        """Return the tokens that a replacement repeats."""
        return tuple(self.placeholders)

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """Return what the image processor returns for the pictures of one row, as far as its texts and the stored
        tensors need it: here by running it on blank pictures."""
        from PIL import Image

        blank = [Image.new("RGB", (width, height)) for height, width in sizes]
        return self._run_part("image", [blank])

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """Return what the video processor returns for one video: here by running it on blank frames."""
        frame = np.zeros((1, video.height, video.width, 3), np.uint8)
        frames = np.broadcast_to(frame, (video.frames, *frame.shape[1:]))
        return self._run_part("video", [frames], video_metadata=[video.metadata], do_sample_frames=False)

    def audio_inputs(self, samples: tuple[int, ...]) -> Mapping[str, Any]:
        """Return what the audio processor returns for the waveforms of one row: here by running it on silence."""
        return self._run_part("audio", [np.zeros(count, np.float32) for count in samples])

    def check_together(self, kind: MediaKind, media: Sequence[Expansion]) -> None:
        """Raise Reject where the processor cannot take these media of one kind in one row."""
        if self.stacks_videos and kind == "video":
            check_frames(type(self.hf).__name__, media)

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """Return the text that replaces a placeholder, by the processor's own method."""
        write = getattr(self.hf, f"replace_{kind}_token")
        return str(write(inputs, **{f"{kind}_idx": index}, **self.part_record(kind).kwargs))

    def call_options(self, metadata: Sequence[Any]) -> dict[str, Any]:
        """Return the arguments of the whole processor's call for videos whose frames are chosen already."""
        return {"videos_kwargs": {"do_sample_frames": False, "video_metadata": list(metadata)}} if metadata else {}

    def call(self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the real processor makes of a conversation whose media parts hold their media."""
        made: Mapping[str, Any] = self.hf.apply_chat_template(
            list(messages),
            chat_template=self.loaded.chat_template,
            tools=tools,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=dict(options),
        )
        return made

    def asked(self, messages: list[Message]) -> list[Message]:
        """Return a conversation with its question as the processor asks it; raises Reject where it cannot."""
        return messages

    def mrope(self) -> dict[str, Any] | None:
        """Return the fields of `pack.positions.Mrope`, or None for plain positions."""
        return None

    @property
    def positions(self) -> Positions:
        """How the family's models count positions."""
        return "mrope" if self.mrope() else "plain"

    def decoder_start(self) -> int | None:
        """Return the token that an encoder-decoder's decoder starts with, None for other models."""
        return None

    # what is the same for all

    def check_kinds(self, media: Sequence[Media]) -> None:
        """Raise Reject (unsupported_media) where the processor does not take these kinds of media, or none at all."""
        name = type(self.hf).__name__
        for kind in dict.fromkeys(item.kind for item in media):
            if kind not in self.kinds:
                reason = self.refusals.get(kind, f"it has no {kind} processor")
                raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{name} takes no {kind} media: {reason} ({_OTHER})")
        if self.needs_media and not media:
            without = f"{name} takes no row without {' or '.join(self.kinds)} media ({_OTHER})"
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, without)

    def expand(self, media: Sequence[Media], stored: Sequence[Mapping[str, Any]] = ()) -> tuple[Expansion, ...]:
        """Return what the placeholders of one row become.

        Args:
            media: all of the row, with their headers, in order.
            stored: the structs of a shard that they were made from, where there are any: level full reads them.

        Raises:
            Reject: the processor cannot take a media of these dimensions.
        """
        if not media:
            return ()
        sizes = tuple((_header(item).height, _header(item).width) for item in media if item.kind == "image")
        heard = [number for number, item in enumerate(media) if item.kind == "audio" or self._has_sound(item)]
        waves = tuple(self.audio_samples(_header(media[number])) for number in heard)
        sounds = {number: (waves, index) for index, number in enumerate(heard)}
        videos = (self._expand_video(item, sounds.get(n)) for n, item in enumerate(media) if item.kind == "video")
        audio = self._audio(waves) if any(item.kind == "audio" for item in media) else ()
        made: dict[MediaKind, list[Expansion]] = {
            "image": list(self._all_images(sizes)),
            "video": list(videos),
            "audio": [each for n, each in zip(heard, audio, strict=False) if media[n].kind == "audio"],
        }
        for kind, expansions in made.items():
            self.check_together(kind, expansions)
        queues = {kind: iter(expansions) for kind, expansions in made.items()}
        return tuple(next(queues[item.kind]) for item in media)

    @cached_property
    def added_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids that the processor puts before and after a text that has no BOS token itself."""
        bare = self.hf.tokenizer("x", add_special_tokens=False)["input_ids"]
        whole = [int(token) for token in np.asarray(self.hf(text=["x"])["input_ids"][0])]
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return tuple(whole[:start]), tuple(whole[start + len(bare) :])

    def frames_of(self, media: Media) -> tuple[tuple[int, ...], float | None]:
        """Return the frames of a video that the processor will be given, and the rate for its timestamps.

        Raises:
            Reject: bad_frame_indices, missing_fps, or processor_error when it cannot sample this video.
        """
        header = _header(media)
        indices = choose_frames(
            self.hf.video_processor, media, header, self.part_record("video").kwargs, self.loaded.config
        )
        return indices, self._fps(media, header)

    @property
    def sampling_rate(self) -> int | None:
        """Samples per second of the waveforms that the processor takes."""
        part = part_of(self.hf, "audio")
        return int(part[1].sampling_rate) if part is not None else None

    def audio_samples(self, header: MediaHeader) -> int:
        """Return the samples of an audio file at the processor's rate."""
        return resampled_length(header.samples or 0, header.sampling_rate or 1, self.sampling_rate or 1)

    def part_record(self, kind: MediaKind) -> PartRecord:
        """Return how the processor uses its part for a kind of media."""
        if kind not in self._part_records:
            self._part_records[kind] = observe(self.hf, kind, self.small_calls)
        return self._part_records[kind]

    @property
    def side_multiple(self) -> int:
        """A picture whose sides are multiples of it is not resized by the processor, within its bounds."""
        return 1

    @property
    def level(self) -> str:
        """The levels in words."""
        levels = {kind: self.levels.get(kind, "by size") for kind in self.kinds}
        if len(set(levels.values())) == 1:
            return next(iter(levels.values()))
        return ", ".join(f"{kind} {level}" for kind, level in levels.items()) or "text only"

    def _all_images(self, sizes: tuple[Size, ...]) -> Iterator[Expansion]:
        if self.look_at_each_other:
            return iter(self._images(sizes) if sizes else ())
        return (self._images((size,))[0] for size in sizes)

    def _expand_images(self, sizes: tuple[Size, ...]) -> tuple[Expansion, ...]:
        named = ", ".join(f"{width}x{height}" for height, width in sizes)
        with as_reject(f"the processor cannot take pictures of {named}"):
            inputs = self.image_inputs(sizes)
            return tuple(self._expansion("image", inputs, index) for index in range(len(sizes)))

    def _expand_audio(self, samples: tuple[int, ...]) -> tuple[Expansion, ...]:
        with as_reject(f"the processor cannot take audio of {', '.join(map(str, samples))} samples"):
            inputs = self.audio_inputs(samples)
            return tuple(self._expansion("audio", inputs, index) for index in range(len(samples)))

    def _has_sound(self, media: Media) -> bool:
        return self.audio_in_video and media.kind == "video" and _header(media).samples is not None

    def _expand_video(self, media: Media, sound: tuple[tuple[int, ...], int] | None) -> Expansion:
        header = _header(media)
        indices, fps = self.frames_of(media)
        video = Video(
            frames=len(indices),
            height=header.height,
            width=header.width,
            metadata=video_metadata(header, fps, indices, times := self._times(header, indices)),
            sound=sound,
        )
        taken = f"{video.frames} frames of {video.width}x{video.height}"
        with as_reject(f"{media.uris[0]}: the processor cannot take {taken}"):
            made = self._expansion("video", self.video_inputs(video), 0)
        return replace(made, frame_indices=indices, fps=fps, times=times)

    def _expansion(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> Expansion:
        run = self.finder.find(self.replacement(kind, inputs, index))
        geometry = {tensor.name: self.rows_of(tensor, inputs, index) for tensor in self.geometry if tensor.kind == kind}
        return Expansion(text=run.text, runs=run.runs, geometry=geometry)

    def rows_of(self, tensor: Tensor, inputs: Mapping[str, Any], index: int) -> NDArray[Any]:
        """Return (rows, *shape) of a stored tensor for media `index` of its kind."""
        return np.asarray(inputs[tensor.name][index], tensor.dtype).reshape(1, *tensor.shape)

    def _times(self, header: MediaHeader, indices: Sequence[int]) -> tuple[float, ...] | None:
        """The seconds at which frames are shown, for a processor that writes them down, where the rate varies."""
        if header.times is None or not self.writes_times or self.loaded.config.video_times == "rate":
            return None
        return tuple(header.times[index] for index in indices)

    def _fps(self, media: Media, header: MediaHeader) -> float | None:
        stated = media.fps if media.frame_list else header.fps
        # the video processor's own fps is what it samples files at, and says nothing of these frames
        if stated is None and self.needs_time and (stated := self.loaded.config.fps) is None:
            raise Reject(
                RejectReason.MISSING_FPS,
                f"{media.uris[0]}: a list of frames needs its frame rate for {self.family}: "
                'write the entry as {"path": [...], "fps": 2} or give `fps` (video_fps may be the rate of its file)',
            )
        return stated

    def _run_part(self, kind: MediaKind, media: Any, **more: Any) -> Mapping[str, Any]:
        found = part_of(self.hf, kind)
        if found is None:
            raise ProcessorError(f"{self.loaded.name} takes no {kind}")
        return dict(found[1](media, **{**self.part_record(kind).kwargs, **more}))

    def text_for(self, kind: MediaKind) -> str:
        """Return what a text holds for one media."""
        return next((text for text, each in self.placeholders.items() if each == kind), "")

    def regions(self) -> dict[str, tuple[int, int]]:
        """Return, for kinds of media that a template writes between two tokens, the ids of these."""
        return {}

    def small_calls(self, kind: MediaKind, scale: int = 1) -> list[dict[str, Any]]:
        """Return the arguments of calls of the whole processor that show how it uses a part, see `observe`."""
        header = MediaHeader(height=64, width=96, total_frames=4, fps=2.0)
        options = self.call_options([video_metadata(header, 2.0, (0, 1, 2, 3))]) if kind == "video" else {}
        return small_calls(kind, self.text_for(kind), self.sampling_rate or 16_000, options, scale)


def _header(media: Media) -> MediaHeader:
    if media.header is None:
        raise ValueError("expand needs a probed media")
    return media.header
