"""What a manifest says of the processor under `processor`: all that training and packing need of it.

Mappings with fixed keys, so that they are JSON as they are; `shards.manifest_rules` checks their types when a manifest
is read. Keys that stores of earlier versions lack are not required, and read with `get`.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

FAMILY_FROM = "family_from"
"""The key of `identity` that names the package of a family from outside; a processor that is loaded alone has none."""


class TensorRecord(TypedDict):
    """A tensor that rows hold beside their media."""

    name: str
    kind: NotRequired[str]
    dtype: str
    shape: list[int]
    """Of one media's row; empty for a number."""


class PartFields(TypedDict):
    """The image, video or audio processor, see `processors.processor_parts.PartRecord`."""

    part_class: str
    config: dict[str, Any]
    kwargs: dict[str, Any]
    outputs: dict[str, tuple[str, int]]
    added: NotRequired[list[str]]
    types: NotRequired[dict[str, dict[str, list[int]]]]
    masks: NotRequired[dict[str, tuple[str, str]]]
    axes: NotRequired[dict[str, int]]
    trims: NotRequired[dict[str, str]]
    lists: NotRequired[dict[str, str]]
    pointers: NotRequired[dict[str, tuple[str, int]]]
    """{tensor whose numbers are places in another: (that one, places in each of its rows)}, see `payload.pointers`."""


class WholeRecord(TypedDict):
    """What it takes to load the processor again, where its parts alone do not do."""

    name: str
    config: dict[str, Any]
    placeholders: dict[str, str]


class StandIn(TypedDict):
    """The smallest media that the processor takes, see `processors.stand_in`."""

    kind: str
    size: int
    ids: list[int]


class ProcessorRecord(TypedDict):
    """What the runtime needs of a processor; made by `processors.runtime.describe_processor`."""

    family: str
    level: str
    """How placeholders are expanded, in words."""
    identity: dict[str, str]
    """Digests of its files, its class, and versions of libraries."""
    parts: dict[str, PartFields]
    """{kind of media: its part}."""
    interleaved: bool
    whole: WholeRecord | None
    tensors: list[TensorRecord]
    sampling_rate: int | None
    """Samples a second of waveforms."""
    audio_in_video: NotRequired[bool]
    sound_offset: NotRequired[str]
    """"keep" where a video's sound begins where it is heard."""
    token_types: dict[str, list[int]]
    token_values: NotRequired[dict[str, dict[str, list[int]]]]
    pad_token_id: int | None
    image_token_id: int | None
    video_token_id: int | None
    decoder_start_token_id: int | None
    """Of an encoder-decoder."""
    encoder_end_token_id: NotRequired[int]
    """Of an encoder-decoder whose encoder reads a row's question, which this token ends."""
    vocab_size: NotRequired[int]
    mrope: NotRequired[dict[str, Any] | None]
    """Settings of the family's positions, see `pack.positions`; in a packed store how they were counted."""
    positions: NotRequired[str]
    run_ids: NotRequired[list[int]]
    """Tokens that stand for media in runs."""
    decoders: NotRequired[dict[str, str]]
    stand_in: NotRequired[StandIn | None]
    model: NotRequired[dict[str, Any] | None]
    """The model's config.json."""
    backbone: NotRequired[dict[str, Any] | None]
    """See `processors.backbone.Backbone`."""
    payload: NotRequired[dict[str, Any] | None]
    """How media are stored as tensors, see `processors.payload.encodings.describe_payload`."""


def meaning(record: ProcessorRecord) -> dict[str, Any]:
    """Return what decides how rows are read, to be compared: not what is found of the model, again from its config."""
    return {name: value for name, value in record.items() if name != "backbone"}
