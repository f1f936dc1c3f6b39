"""The settings of a run, as frozen dataclasses; what shapes the output is in the fingerprint, the rest is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Overlong = Literal["drop", "truncate", "error"]
MediaMode = Literal["reference", "encoded", "pixels"]
AudioPayload = Literal["waveform", "features"]
TrainOn = Literal["assistant", "last", "all"]
TrainEnd = Literal["all", "last", "none"]
RewrittenHistory = Literal["reject", "split", "mask"]
ControlTokens = Literal["text", "reject", "allow"]
ToolText = Literal["inline", "reject"]
CheckMedia = Literal["header", "decode"]
Layout = Literal["ranks", "index"]
ShardFormat = Literal["arrow", "webdataset"]
TarMedia = Literal["joined", "separate"]
PackPositions = Literal["family", "plain"]


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """Settings that a processor is loaded with."""

    fps: float | None = None
    """Frames per second to sample from videos; turns sampling on."""
    min_frames: int | None = None
    max_frames: int | None = None
    args: dict[str, Any] = field(default_factory=dict)
    """Settings of its image, video or audio processor, as `from_pretrained` takes them: max_pixels, ..."""
    chat_template: str | None = None
    """A chat template in place of the processor's own."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the processor."""
    audio_in_video: bool = False
    """Interleave a video's frames with its sound."""


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """Settings of `tokenize` that shape its output."""

    max_length: int | None = None
    """Most tokens in a row; None for no limit."""
    overlong: Overlong = "drop"
    """What happens to longer rows: reject them, cut whole turns off their end, or stop."""
    media: MediaMode = "encoded"
    """What a shard holds of media: a checked reference, the file's bytes, or the processor's tensors (`pixels`)."""
    audio: AudioPayload = "waveform"
    """What payload `pixels` holds of audio: the waveform at the model's rate, or the processor's features."""
    train_on: TrainOn = "assistant"
    """Train all assistant turns, the last one, or all text; `train: false` on a message or part always masks it."""
    train_end: TrainEnd = "all"
    """The token that ends a turn: trained in all trained turns, in the last of them, or in none."""
    train_reasoning: bool = True
    """Whether reasoning is trained (reasoning_content, or <think>...</think> at the start of an answer)."""
    train_tool_calls: bool = True
    """Whether tool calls are trained."""
    rewritten_history: RewrittenHistory = "reject"
    """Trained turns that the template rewrites once others follow (it drops their reasoning): reject the row, split it
    into documents that each end where such a turn is still whole, or train the other turns only."""
    thinking_prefix: bool = False
    """Write the empty thinking channel that larger Gemma 4 models begin an answer with behind each model turn's header;
    it is not trained."""
    loss_weights: bool = False
    """Store a weight for each token; without it, rows that give weights other than 0 and 1 are rejected."""
    control_tokens: ControlTokens = "text"
    """Control tokens written in the data's own text: encoded as plain text, a reject, or allowed to act."""
    tool_text: ToolText = "inline"
    """Tool schemas and calls for a template that does not know them: written as text, or a reject."""
    check_media: CheckMedia = "header"
    """Read the headers and ends of pictures, or decode them whole."""
    max_image_pixels: int = 178_956_970
    """Larger pictures are rejected before they are decoded."""
    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    processor_args: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    trust_remote_code: bool = False
    audio_in_video: bool = False
    """Interleave a video's frames with its sound, for the families that can."""
    verify_fraction: float = 0.01
    """Share of rows compared with the real processor; at least 8 rows for each kind of media."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)

    @property
    def processor(self) -> ProcessorConfig:
        """How the processor is loaded."""
        return ProcessorConfig(
            fps=self.fps,
            min_frames=self.min_frames,
            max_frames=self.max_frames,
            args=self.processor_args,
            chat_template=self.chat_template,
            trust_remote_code=self.trust_remote_code,
            audio_in_video=self.audio_in_video,
        )


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Settings of `pack` that shape its output."""

    pack_length: int
    """Tokens in a pack."""
    world_size: int = 1
    """Ranks to make shards for."""
    layout: Layout = "ranks"
    """A folder of shards for each rank, or the plan alone (an index over the tokenized store)."""
    tokens_per_second: float | None = None
    """Qwen2.5-VL's vision_config.tokens_per_second or Qwen-Omni's position_id_per_seconds, for a model that differs
    from the published 2, 25 (Qwen2.5-Omni) or 13 (Qwen3-Omni)."""
    positions: PackPositions = "family"
    """Those of the processor's family, or 0..n-1 in each document, for a model that only borrowed the processor."""
    format: ShardFormat = "arrow"
    """Arrow shards, which `ShardDataset` reads, or tars for webdataset."""
    media: MediaMode | None = None
    """Raise the payload: to the files' bytes, or to the processor's tensors; None keeps that of the tokenized store."""
    audio: AudioPayload = "waveform"
    """What payload `pixels` holds of audio."""
    tar_media: TarMedia = "joined"
    """In tars: a row's media files as one field, or each as a field of its own."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Settings of `ingest` that shape its output."""

    check_media: CheckMedia = "header"
    """Read the headers and ends of pictures, or decode them whole."""
    max_image_pixels: int = 178_956_970
    """Larger pictures are rejected before they are decoded."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)
