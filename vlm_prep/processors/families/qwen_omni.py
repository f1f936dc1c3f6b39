"""Qwen2.5-Omni and Qwen3-Omni: Qwen's pictures and videos, and audio by the frames of its spectrogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.records import MediaKind, Message
from vlm_prep.processors.expansion import SOUND, Level, Tensor, Video
from vlm_prep.processors.families.qwen_vl import IMAGE_GRID, VIDEO_GRID, Qwen2VL

_SECONDS = Tensor(name="video_second_per_grid", kind="video", dtype="float32")


class Qwen2_5Omni(Qwen2VL):  # noqa: N801 - the model's name
    """Qwen2.5-Omni."""

    family: ClassVar[str] = "qwen2_5_omni"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula", "audio": "formula"}
    geometry: tuple[Tensor, ...] = (IMAGE_GRID, VIDEO_GRID, _SECONDS)
    interleaves_sound: ClassVar[bool] = True
    default_fps: ClassVar[float] = 2.0
    """What the processor takes for videos that are not sampled by a rate of the call (Qwen2_5OmniProcessor)."""

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        fps = self.wiring("video").kwargs.get("fps") or self.default_fps
        seconds = self.hf.video_processor.temporal_patch_size / fps
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
        videos, so the rate of --fps is said again though frames are chosen already."""
        options = super().call_options(metadata)
        if options and self.loaded.config.fps is not None:
            options["videos_kwargs"]["fps"] = self.loaded.config.fps
        return options

    def call(self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.call`. With their sound, videos are given as a caller does who decoded it: one waveform for each
        audio file and each video that has a track, in their order."""
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
        part, kwargs = self.hf.feature_extractor, self.wiring("audio").kwargs
        longest, hop = int(part.n_samples), int(part.hop_length)
        if kwargs.get("truncation", True):
            samples = tuple(min(count, longest) for count in samples)
        padded = longest if kwargs.get("padding", "max_length") == "max_length" else max(samples)
        if padded <= int(part.n_fft) // 2:
            raise ValueError("shorter than half a window of the spectrogram")
        return [min(-(-count // hop), padded // hop) for count in samples]

    def audio_tokens(self, frames: int) -> int:
        """Return the encoder's tokens for `frames`, by transformers' own function."""
        from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import _get_feat_extract_output_lengths

        return int(_get_feat_extract_output_lengths(frames))


class Qwen3Omni(Qwen2_5Omni):
    """Qwen3-Omni."""

    family: ClassVar[str] = "qwen3_omni_moe"
    default_fps: ClassVar[float] = 1.0

    def audio_tokens(self, frames: int) -> int:
        """See `Qwen2_5Omni.audio_tokens`."""
        from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

        return int(_get_feat_extract_output_lengths(np.asarray(frames), int(self.hf.n_window)))
