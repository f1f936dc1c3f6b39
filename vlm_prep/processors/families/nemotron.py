"""Nemotron-Omni (pictures, one video, audio) and Nemotron-Parse (one page, prompt and answer, an encoder-decoder)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaKind, Message
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Expansion, Level, Size, Tensor, Video
from vlm_prep.processors.load import LoadedProcessor

_PARSE_TEMPLATE = """\
{%- for message in messages -%}
{%- set said = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join -%}
{%- if message['role'] == 'assistant' -%}{{ said }}{{ eos_token }}
{%- else -%}{{ said or '</s><s><predict_bbox><predict_classes><output_markdown>' }}
{%- endif -%}
{%- endfor -%}"""
"""Prompt, answer, end. Nemotron-Parse has no chat template; the prompt for a page without one asks for everything, as
its model card does."""


class NemotronOmni(Adapter):
    """Nemotron-Omni. Its tokenizer has no video token: frames are written with the picture's."""

    family: ClassVar[str] = "nemotron_omni"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula", "audio": "formula"}
    geometry: tuple[Tensor, ...] = (Tensor(name="image_grid_hw", kind="image", dtype="int64", shape=(2,)),)
    look_at_each_other: bool = True

    def find_run_tokens(self) -> tuple[str, ...]:
        """See `Adapter.find_run_tokens`."""
        return (str(self.hf.image_token), str(self.hf.audio_token))

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: the budget that pictures share is that of NemotronH_Omni's image processor."""
        import numpy as np

        part = self.hf.image_processor
        merge, least, most = round(1 / part.downsample_ratio), part.min_num_patches, part.max_num_patches
        budget = max((part.max_model_len - 4) * merge**2, least * len(sizes))
        budget = max(min(budget, most) if most else budget, least)
        grid = internals.nemotron_grid.get()
        grids = [grid(height, width, part.patch_size, merge, least, budget) for height, width in sizes]
        return {"image_grid_hw": np.asarray(grids)}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        part = self.hf.video_processor
        columns, rows = internals.nemotron_patches.of(part)(video.height, video.width)
        return {"num_tokens": [columns * rows // internals.nemotron_downsampling.of(part) ** 2], "video": video}

    def audio_inputs(self, samples: tuple[int, ...]) -> Mapping[str, Any]:
        """See `Adapter.audio_inputs`. Features are divided by their deviation, which one frame alone does not have."""
        hop = int(self.hf.feature_extractor.hop_length)
        if min(samples) < 2 * hop:
            raise ValueError(f"less than two frames of the spectrogram, {2 * hop} samples: its features are not finite")
        return {"num_tokens": [max(1, internals.nemotron_audio_tokens.of(self.hf)(count)) for count in samples]}

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`."""
        if kind != "video":
            return super().replacement(kind, inputs, index)
        video: Video = inputs["video"]
        text: str = self.hf.replace_video_token(inputs, 0, num_frames=video.frames, video_metadata=video.metadata)
        return text

    def call_options(self, metadata: Sequence[Any]) -> dict[str, Any]:
        """See `Adapter.call_options`: it takes one VideoMetadata, not a list."""
        from transformers.video_utils import VideoMetadata

        if not metadata:
            return {}
        one = metadata[0]
        one = VideoMetadata(**one) if isinstance(one, dict) else one
        return {"videos_kwargs": {"do_sample_frames": False, "video_metadata": one}}

    def check_together(self, kind: MediaKind, media: Sequence[Expansion]) -> None:
        """See `Adapter.check_together`."""
        if kind == "video" and len(media) > 1:
            raise Reject(RejectReason.PROCESSOR_ERROR, f"{len(media)} videos: Nemotron-Omni's processor takes one")


class NemotronParse(Adapter):
    """Nemotron-Parse: the page goes to the encoder, so no token stands for it; prompts are control tokens."""

    family: ClassVar[str] = "nemotron_parse"
    levels: Mapping[MediaKind, Level] = {"image": "formula"}
    unplaced: ClassVar[tuple[MediaKind, ...]] = ("image",)
    prompts_are_tokens: ClassVar[bool] = True

    def __init__(self, loaded: LoadedProcessor) -> None:
        super().__init__(loaded)
        if not getattr(self.hf, "chat_template", None):
            self.hf.chat_template = _PARSE_TEMPLATE

    def find_placeholders(self) -> dict[str, MediaKind]:
        """See `Adapter.find_placeholders`."""
        return {}

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: every page becomes the same size."""
        return {}

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`: the text says nothing of the page."""
        return ""

    def check_together(self, kind: MediaKind, media: Sequence[Expansion]) -> None:
        """See `Adapter.check_together`."""
        if len(media) > 1:
            raise Reject(RejectReason.PROCESSOR_ERROR, f"{len(media)} pictures: Nemotron-Parse takes one page")

    def call(self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.call`."""
        template = internals.compile_template.get()(self.loaded.chat_template)
        text = template.render(messages=messages, **self.hf.tokenizer.special_tokens_map)
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        pages = [part["image"] for part in parts if part["type"] == "image"]
        made: Mapping[str, Any] = self.hf(images=pages or None, text=[text], return_tensors="pt")
        return made

    def decoder_start(self) -> int | None:
        """See `Adapter.decoder_start`: what the model's config says; without one, what its task prompts open with
        (</s>, as the decoders of mBART's kind do)."""
        config = self.loaded.model or {}
        named = (part.get("decoder_start_token_id") for part in (config, config.get("decoder") or {}))
        stated = next((int(token) for token in named if token is not None), None)
        return stated if stated is not None else int(self.hf.tokenizer.eos_token_id)
