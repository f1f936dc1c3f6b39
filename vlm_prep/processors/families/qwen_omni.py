"""Qwen2.5-Omni and Qwen3-Omni: Qwen's pictures and videos, and audio by the frames of its spectrogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.records import MediaKind, Message
from vlm_prep.processors import internals
from vlm_prep.processors.expansion import SOUND, Level, Tensor, Video
from vlm_prep.processors.families.qwen_vl import IMAGE_GRID, VIDEO_GRID, Qwen2VL
from vlm_prep.processors.processor_parts import PartRecord

_SECONDS = Tensor(name="video_second_per_grid", kind="video", dtype="float32")


class Qwen2_5Omni(Qwen2VL):  # noqa: N801 - the model's name
    """Qwen2.5-Omni."""

    family: ClassVar[str] = "qwen2_5_omni"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula", "audio": "formula"}
    geometry: tuple[Tensor, ...] = (IMAGE_GRID, VIDEO_GRID, _SECONDS)
    interleaves_sound: ClassVar[bool] = True
    needs_time: ClassVar[bool] = True

    def part_record(self, kind: MediaKind) -> PartRecord:
        """See `Adapter.part_record`. The rate of a call is that of a row's videos; of a spectrogram of five minutes the
        thinker takes the frames that the mask keeps, before it computes anything."""
        found = super().part_record(kind)
        if kind == "audio":
            found = replace(found, trims={"input_features": "feature_attention_mask"})
        return replace(found, kwargs={name: value for name, value in found.kwargs.items() if name != "fps"})

    def rate(self, metadata: Any) -> float:
        """Return the frames a second that a video is given with, from transformers' VideoMetadata of it.

        That of --fps, where its frames were taken by it; else that of the frames: of even steps the file's rate by the
        step, of others their share of the file's (`VideoMetadata.sampled_fps`). The processor is told it with each
        call, and would take 2 (Qwen3-Omni 1) for any video that nothing is said of.
        """
        asked = self.loaded.config.fps
        total, fps, indices = (_field(metadata, name) for name in ("total_num_frames", "fps", "frames_indices"))
        patch = self.hf.video_processor.temporal_patch_size
        if asked is not None and abs(len(indices) - total / fps * asked) <= patch and _covers(indices, total):
            return asked
        steps = {after - before for before, after in pairwise(indices)}
        step = steps.pop() if len(steps) == 1 else 0
        return float(fps / step if step > 0 else len(indices) / total * fps)

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        seconds = self.hf.video_processor.temporal_patch_size / self.rate(video.metadata)
        sound = None
        if video.sound is not None:
            waves, index = video.sound
            sound = [self.audio_inputs(waves)["num_audio_tokens"][index]]
        return {**super().video_inputs(video), "video_second_per_grid": [seconds], "sound": sound}

    def audio_inputs(self, samples: tuple[int, ...]) -> Mapping[str, Any]:
        """See `Adapter.audio_inputs`."""
        tokens = [self.audio_tokens(frames) for frames in self.audio_frames(samples)]
        if min(tokens) < 1:
            raise ValueError("too short to be a token")
        return {"num_audio_tokens": tokens}

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`."""
        if kind != "video":
            return super().replacement(kind, inputs, index)
        sound = inputs["sound"]
        text: str = self.hf.replace_video_token(
            inputs,
            video_idx=index,
            processed_audio={"num_audio_tokens": sound},
            video_to_audio_indices=[0],
            load_audio_from_video=sound is not None,
            position_id_per_seconds=self.hf.position_id_per_seconds,
            seconds_per_chunk=self.hf.seconds_per_chunk,
        )
        return text

    def call_options(self, metadata: Sequence[Any]) -> dict[str, Any]:
        """See `Adapter.call_options`. These processors take the seconds of a step from the call's fps, not from the
        videos: one rate, or, which `call` alone takes, a list where the videos of a row differ."""
        options = super().call_options(metadata)
        if options:
            rates = [self.rate(each) for each in metadata]
            options["videos_kwargs"]["fps"] = rates[0] if len(set(rates)) == 1 else rates
        return options

    def call(self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.call`. The processor takes one rate for all videos of a call: where they differ it is called
        once for each, and what it makes of that video is taken."""
        rates = options.get("videos_kwargs", {}).get("fps")
        if not isinstance(rates, list):
            return self._call_at_one_rate(messages, tools, options)
        made = [
            dict(
                self._call_at_one_rate(
                    messages, tools, {**options, "videos_kwargs": {**options["videos_kwargs"], "fps": rate}}
                )
            )
            for rate in rates
        ]
        whole = made[0]
        ids = whole["input_ids"] = whole["input_ids"].clone()
        for number, (start, end) in enumerate(self._video_spans(ids[0].tolist())):
            ids[0, start:end] = made[number]["input_ids"][0, start:end]
        seconds = [each["video_second_per_grid"][number] for number, each in enumerate(made)]
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in whole:
                for number, (start, end) in enumerate(self._video_spans(ids[0].tolist())):
                    whole[name][0, start:end] = made[number][name][0, start:end]
        return {**whole, "video_second_per_grid": type(whole["video_second_per_grid"])(seconds)}

    def _video_spans(self, ids: list[int]) -> list[tuple[int, int]]:
        """Where the videos of a row stand: between the start and the end of a media that holds video tokens."""
        number = self.hf.tokenizer.convert_tokens_to_ids
        starts = [place for place, token in enumerate(ids) if token == number(self.hf.vision_bos_token)]
        ends = [place for place, token in enumerate(ids) if token == number(self.hf.vision_eos_token)]
        spans = [(start, next(end for end in ends if end > start)) for start in starts]
        return [(start, end) for start, end in spans if int(self.hf.video_token_id) in ids[start:end]]

    def _call_at_one_rate(
        self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """With their sound, videos are given as a caller does who decoded it: one waveform for each audio file and each
        video that has a track, in their order."""
        if not self.audio_in_video:
            return super().call(messages, tools, options)
        text = self.hf.apply_chat_template(
            list(messages), chat_template=self.loaded.chat_template, tools=tools, tokenize=False
        )
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        images = [part["image"] for part in parts if part["type"] == "image"]
        videos: list[Any] = []
        slots: list[tuple[Any, int | None]] = []
        for part in parts:
            if part["type"] == "audio":
                slots.append((part["audio"], None))
            elif part["type"] == "video":
                if part.get(SOUND) is not None:
                    slots.append((part[SOUND], len(videos)))
                videos.append(part["video"])
        made: Mapping[str, Any] = self.hf(
            text=text,
            images=[images] if images else None,
            videos=[videos] if videos else None,
            audio=[wave for wave, _ in slots] or None,
            audio_from_video_indices=[video for _, video in slots],
            load_audio_from_video=True,
            return_tensors="pt",
            **({"sampling_rate": self.sampling_rate} if slots else {}),
            **options,
        )
        return made

    def mrope(self) -> dict[str, Any] | None:
        """See `Adapter.mrope`. tokens_per_second is the model's position_id_per_seconds (thinker_config), which the
        processor states too, since it orders a video's tokens by it: 25, and 13 for Qwen3-Omni, as in the published
        checkpoints; `vlm-prep pack --tokens-per-second` overrides it."""
        number = self.hf.tokenizer.convert_tokens_to_ids
        return {
            **(super().mrope() or {}),
            "tokens_per_second": float(self.hf.position_id_per_seconds),
            "audio_token_id": int(self.hf.audio_token_id),
            "audio_start_token_id": int(number(self.hf.audio_bos_token)),
            "vision_start_token_id": int(number(self.hf.vision_bos_token)),
            "seconds_per_chunk": float(self.hf.seconds_per_chunk),
        }

    def audio_frames(self, samples: tuple[int, ...]) -> list[int]:
        """Return the frames of each waveform's spectrogram, as WhisperFeatureExtractor masks them.

        A waveform has one for each hop that it begins. All are padded to one length, and the last hop of that has a
        frame only if it is whole: so the frames of the longest may be one fewer, beside a longer one.
        """
        part, kwargs = self.hf.feature_extractor, self.part_record("audio").kwargs
        longest, hop = int(part.n_samples), int(part.hop_length)
        if kwargs.get("truncation", True):
            samples = tuple(min(count, longest) for count in samples)
        padded = longest if kwargs.get("padding", "max_length") == "max_length" else max(samples)
        if padded <= int(part.n_fft) // 2:
            raise ValueError("shorter than half a window of the spectrogram")
        return [min(-(-count // hop), padded // hop) for count in samples]

    def audio_tokens(self, frames: int) -> int:
        """Return the encoder's tokens for `frames`, by transformers' own function."""
        return int(internals.qwen2_5_omni_audio_tokens.get()(frames))


class Qwen3Omni(Qwen2_5Omni):
    """Qwen3-Omni."""

    family: ClassVar[str] = "qwen3_omni_moe"

    def audio_tokens(self, frames: int) -> int:
        """See `Qwen2_5Omni.audio_tokens`."""
        return int(internals.qwen3_omni_audio_tokens.get()(np.asarray(frames), int(self.hf.n_window)))


def _field(metadata: Any, name: str) -> Any:
    return metadata[name] if isinstance(metadata, Mapping) else getattr(metadata, name)


def _covers(indices: Sequence[int], total: int) -> bool:
    """Whether frames go from the beginning of a video to its end, as those taken by a rate do."""
    step = (indices[-1] - indices[0]) / max(len(indices) - 1, 1)
    return indices[0] <= step and indices[-1] + 2 * step + 1 >= total
