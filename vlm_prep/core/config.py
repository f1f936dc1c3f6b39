"""The settings of a run, as frozen dataclasses; what shapes the output is in the fingerprint, the rest is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Overlong = Literal["drop", "truncate", "error"]
MediaMode = Literal["reference", "encoded"]
TrainOn = Literal["assistant", "last"]
ControlTokens = Literal["text", "reject", "allow"]
ToolText = Literal["inline", "reject"]
CheckMedia = Literal["header", "decode"]
Layout = Literal["ranks", "index"]
ShardFormat = Literal["arrow", "webdataset"]
TarMedia = Literal["joined", "separate"]


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """Settings of `tokenize` that shape its output."""

    max_length: int | None = None
    """Most tokens in a row; None for no limit."""
    overlong: Overlong = "drop"
    """What happens to longer rows: reject them, cut whole turns off their end, or stop."""
    media: MediaMode = "encoded"
    """What a shard holds of media: a checked reference or the file's bytes."""
    train_on: TrainOn = "assistant"
    """Train all assistant turns or the last one; `train: false` on a message always masks it."""
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
    verify_fraction: float = 0.01
    """Share of rows compared with the real processor; at least 8 rows for each kind of media."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


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
    """Qwen2.5-VL's vision_config.tokens_per_second, for a model that differs from the published 2."""
    format: ShardFormat = "arrow"
    """Arrow shards, which `ShardDataset` reads, or tars for webdataset."""
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
