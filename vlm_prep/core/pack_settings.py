"""The settings of `pack` that shape its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le

from vlm_prep.core.fields import Flag, IsPath, Later, Settings
from vlm_prep.core.media_settings import Compress, ShareMedia
from vlm_prep.core.settings import AudioForm, MediaMode, ShardFormat, TarMedia

Layout = Literal["ranks", "index"]
PackPositions = Literal["family", "plain"]
Lockstep = Literal["balance", "strict", "off"]
PackOrder = Literal["best-fit", "source"]


@dataclass(frozen=True, kw_only=True)
class PackConfig(Settings):
    """Settings of `pack` that shape its output."""

    title: ClassVar[str] = "Packs"

    pack_length: Annotated[int, Ge(1), Doc("Tokens in a pack.")]
    world_size: Annotated[int, Ge(1), Doc("Ranks to make shards for.")] = 1
    pack_patches: Annotated[
        int | None,
        Ge(1),
        Doc("Most visual patches in a pack (t x h x w of its grids; where none are stored, media tokens)."),
    ] = None
    pack_media: Annotated[int | None, Ge(1), Doc("Most pictures, videos and audios in a pack.")] = None
    pack_documents: Annotated[int | None, Ge(1), Doc("Most documents in a pack.")] = None
    pack_audio: Annotated[float | None, Gt(0), Doc("Most seconds of audio in a pack.")] = None
    shorter_packs: Annotated[
        list[int] | None,
        Later(),
        Flag("--shorter-pack"),
        Doc(
            "A further, shorter length of packs; may be repeated. A row goes to the shortest packs that hold it, and a "
            "step has packs of one length."
        ),
    ] = None
    document_multiple: Annotated[
        int,
        Ge(1),
        Later(),
        Doc(
            "Count each document's tokens up to a multiple, e.g. 2 x the size of context parallelism, or 16 for FP8; "
            "PackedCollate lays the padding."
        ),
    ] = 1
    keep_together: Annotated[
        str | None, Later(), Doc("Rows with the same value in this column share a pack, in their order.")
    ] = None
    pack_order: Annotated[
        PackOrder,
        Later(),
        Doc(
            "best-fit fills packs as well as can be; source fills them one after the other in the order of the rows, "
            "and moves none of them for lockstep."
        ),
    ] = "best-fit"
    epochs: Annotated[
        int,
        Ge(1),
        Le(1000),
        Later(),
        Doc("Epochs in one plan: each is another deal of the same rows, read one after the other."),
    ] = 1
    pack_seed: Annotated[int, Ge(0), Later(), Doc("Of what differs between epochs.")] = 0
    sample_weight: Annotated[
        str | None,
        Later(),
        Doc(
            "How often an epoch has a row: a number, or a column of numbers that travels with the rows; 1.5 is once, "
            "and a stable half of the rows twice. [default: once]"
        ),
    ] = None
    lockstep: Annotated[
        Lockstep,
        Doc(
            "All ranks of a step get packs with the same kinds of media: as far as documents can change places for it "
            "(balance), or else refuse (strict); off leaves packs as they were filled."
        ),
    ] = "balance"
    cost: Annotated[
        str | None,
        Doc(
            "What a row costs, so that the ranks of a step get near-equal work: attention=1.3e-5,vision=0.09 (in units "
            "of a token), a model such as qwen3-vl-8b, or both. [default: counted from the model's config, else "
            "Qwen2.5-VL-7B's]"
        ),
    ] = None
    layout: Annotated[Layout, Doc("Shards for each rank, or the plan alone (an index) over the tokenized store.")] = (
        "ranks"
    )
    tokens_per_second: Annotated[
        float | None,
        Gt(0),
        Doc(
            "Qwen2.5-VL's vision_config.tokens_per_second or Qwen-Omni's position_id_per_seconds, if the model's is "
            "not the published one."
        ),
    ] = None
    model: Annotated[
        str | None,
        Later(),
        IsPath(only_existing=True),
        Doc(
            "The model's folder or config.json: how it counts positions and what its layers need of a pack. [default: "
            "config.json beside the processor, else what its family needs]"
        ),
    ] = None
    positions: Annotated[
        PackPositions, Doc("Those of the processor's family, or plain, for a model that only borrowed the processor.")
    ] = "family"
    format: Annotated[ShardFormat, Doc("Arrow shards for ShardDataset and datasets, or tars for webdataset.")] = "arrow"
    media: Annotated[
        MediaMode | None,
        Doc("Raise media to the files' bytes or the processor's tensors. [default: as tokenized]"),
    ] = None
    audio: AudioForm = "waveform"
    share_media: ShareMedia = "none"
    compress: Compress = "none"
    tar_media: Annotated[TarMedia, Doc("In tars: a pack's media files as one field, or a field each.")] = "joined"
    certify: Annotated[
        bool,
        Later(),
        Doc(
            "Compare some packs with their documents alone by what a tiny random model of the same kinds of layers "
            "computes, in each form of attention; the manifest holds what came of it. Needs the model's config.json "
            "(seconds to a minute)."
        ),
    ] = False
