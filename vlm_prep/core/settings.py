"""The settings of a run, each said once; what shapes the output is in the fingerprint, the rest is not.

A group is a frozen dataclass, a setting a field of it (see `core.fields`): the flags of every command that takes the
group, the keys of run files, the tables of the documentation and the bounds that are held all come from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le

from vlm_prep.core.box_settings import BoxConfig as BoxConfig
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Flag, IsPath, Later, ReadsFile, Settings, is_day
from vlm_prep.core.label_convention import Convention
from vlm_prep.core.length_settings import LengthConfig as LengthConfig
from vlm_prep.core.length_settings import OverlongAudio as OverlongAudio
from vlm_prep.core.media_settings import Compress, ShareMedia
from vlm_prep.core.media_settings import MediaCheck as MediaCheck

MediaMode = Literal["reference", "encoded", "pixels"]
MissingTags = Literal["reject", "first"]
RepeatedTags = Literal["reject", "same"]
TagBlanks = Literal["keep", "strip"]
MixStop = Literal["all_exhausted", "first_exhausted"]
AudioPayload = Literal["waveform", "features"]
TrainOn = Literal["assistant", "last", "all"]
TrainEnd = Literal["all", "last", "none"]
RewrittenHistory = Literal["reject", "split", "mask"]
ControlTokens = Literal["text", "reject", "allow"]
ToolText = Literal["inline", "reject"]
EmptyAnswers = Literal["keep", "reject"]
LeftOut = Literal["keep", "reject"]
VideoTimes = Literal["frames", "rate"]
SoundOffset = Literal["ignore", "keep"]
ShardFormat = Literal["arrow", "webdataset"]
TarMedia = Literal["joined", "separate"]

TrustRemoteCode = Annotated[bool, Doc("Run the Python code that comes with the processor.")]
RowHookName = Annotated[
    str | None, Doc("A function of your own, module:function, that gets each row and gives the row to read, or None.")
]
TokenHookName = Annotated[
    str | None, Later(), Doc("A function of your own, module:function: gets each row's ids and labels, gives its own.")
]
AudioForm = Annotated[AudioPayload, Doc("With media pixels: store audio as waveform or as features.")]


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Settings):
    """How a source is read, see `ingest.source.open_samples`."""

    title: ClassVar[str] = "Source and rows"

    datasets: Annotated[
        list[str] | None, Flag("--dataset"), Doc("Only this dataset of a meta JSON or preset; may be repeated.")
    ] = None
    format: Annotated[
        str | None, Doc("Format of rows: sharegpt, messages, alpaca, texts, completion, asr, or a package's.")
    ] = None
    columns: Annotated[
        dict[str, str] | None,
        Flag("--column", example="messages=conversations"),
        Doc("A data file's column as role=name, e.g. messages=conversations; may be repeated."),
    ] = None
    tags: Annotated[
        dict[str, str] | None,
        Flag("--tag", example="user_tag=human"),
        Doc("A data file's tag as tag=value, e.g. user_tag=human; may be repeated."),
    ] = None
    media_dir: Annotated[str | None, IsPath(), Doc("Where a data file's relative media paths start.")] = None
    sample_ratio: Annotated[float | None, Doc("Share of a data file's rows, or how often each (2.5).")] = None
    split: Annotated[
        str | None,
        Doc(
            "Split of a hub set or dataset folder, also a part (train[:1000]) or several (validation+test). [default: "
            "train, or the only one]"
        ),
    ] = None
    subset: Annotated[str | None, Doc("Configuration of a hub set or dataset folder.")] = None
    system_prompt: Annotated[str | None, Doc("System turn of every asr row. [default: none]")] = None
    user_prompt: Annotated[str | None, Doc("Text before the audio of every asr row. [default: none]")] = None
    min_duration: Annotated[float | None, Ge(0.0), Doc("Reject rows with shorter audio, in seconds.")] = None
    max_duration: Annotated[float | None, Ge(0.0), Doc("Reject rows with longer audio, in seconds.")] = None
    missing_tags: Annotated[
        MissingTags | None,
        Doc("Media without a placeholder: reject the row, or put them before its first user text. [default: reject]"),
    ] = None
    repeated_tags: Annotated[
        RepeatedTags | None,
        Doc("Several placeholders for the one media of its kind: reject the row, or take it for each (same)."),
    ] = None
    tag_blanks: Annotated[
        TagBlanks | None,
        Doc("Blanks around placeholders and at the ends of user texts: keep them, or strip them."),
    ] = None
    ignore_keys: Annotated[
        list[str] | None,
        Flag("--ignore-key"),
        Doc("A key or column that means nothing here, though other tools give it a meaning; may be repeated."),
    ] = None
    keep_columns: Annotated[
        list[str] | None,
        Flag("--keep-column"),
        Doc("A column that goes with its rows to shards, rejects and `view`, as their id does; may be repeated."),
    ] = None
    encoding: Annotated[str | None, Doc("Encoding of a text file that is not UTF-8, e.g. gbk.")] = None
    lenient_json: Annotated[
        bool, Doc("Read rows with comments, trailing commas, Python literals or raw control characters as JSON.")
    ] = False
    rows_key: Annotated[str | None, Doc("Key of an object under which its rows stand, e.g. data, or data.rows.")] = None
    mapping: Annotated[
        str | None,
        ReadsFile(inline=True),
        Doc("A YAML file, or in a run file a section, that says what the columns of a table are; see docs/sources.md."),
    ] = None
    turns: Annotated[
        list[str] | None,
        Flag("--turn", example='"assistant={caption}"'),
        Doc(
            "A turn of each row of a table as role=template, in order, e.g. 'user=<image>What is it?' and "
            "'assistant={caption}': columns in braces; may be repeated."
        ),
    ] = None
    download: Annotated[
        list[str] | None,
        Flag("--download", metavar="HOST"),
        Doc(
            "Fetch media by http(s) from this host, or a pattern (*.example.org; * is any public host); may be "
            "repeated. [default: such media are rejected]"
        ),
    ] = None
    download_private: Annotated[bool, Doc("Fetch media from addresses of private networks, too.")] = False
    row_hook: RowHookName = None
    mix: Annotated[
        dict[str, Any] | None,
        Flag("--mix", example="talks=0.8"),
        Doc("Mix the datasets of a source by shares, e.g. talks=0.8 and text=0.2. [default: one after the other]"),
    ] = None
    mix_stop: Annotated[
        MixStop | None,
        Doc("A mix ends when every dataset has given all its rows, or the first one. [default: all_exhausted]"),
    ] = None
    mix_seed: Annotated[int | None, Doc("Seed of a mix. [default: 42]")] = None
    limit: Annotated[int | None, Ge(1), Doc("Only the first N rows.")] = None
    split_by: Annotated[
        str | None,
        Doc(
            "Sides of a split by a stable hash of each row's sample_id, e.g. hash:train=0.98,validation=0.02; `take` "
            "says which one is read."
        ),
    ] = None
    take: Annotated[str | None, Doc("The side of `split_by` that is read.")] = None


@dataclass(frozen=True, kw_only=True)
class PayloadConfig(Settings):
    """What a shard holds of media."""

    title: ClassVar[str] = "Media payload"

    media: Annotated[
        MediaMode, Doc("Store references to media files, the files' bytes, or the processor's tensors (pixels).")
    ] = "encoded"
    audio: AudioForm = "waveform"
    share_media: ShareMedia = "none"
    compress: Compress = "none"


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Settings):
    """What of a row is trained, and how its text is written."""

    title: ClassVar[str] = "Labels and text"

    train_on: Annotated[
        TrainOn,
        Doc("Train all assistant turns, the last one, or all text; train: false on a message or part always masks it."),
    ] = "assistant"
    train_end: Annotated[TrainEnd, Doc("The token that ends a turn: train all, the last turn's, or none.")] = "all"
    label_convention: Convention = "ours"
    train_reasoning: Annotated[
        bool, Doc("Train reasoning (reasoning_content, or <think>...</think> at the start of an answer), or mask it.")
    ] = True
    train_tool_calls: Annotated[bool, Doc("Train tool calls, or mask them.")] = True
    rewritten_history: Annotated[
        RewrittenHistory,
        Doc(
            "Trained turns that the chat template rewrites once others follow (it drops reasoning): reject the row, "
            "split it into documents that end with such a turn, or mask the turn."
        ),
    ] = "reject"
    thinking_prefix: Annotated[bool, Doc("Gemma 4: an empty thinking channel, untrained, before each answer.")] = False
    loss_weights: Annotated[
        bool, Doc("Store each token's weight, as the data gives them; without it such rows are rejected.")
    ] = False
    control_tokens: Annotated[
        ControlTokens, Doc("Control tokens typed in the data: plain text, a reject, or let them act.")
    ] = "text"
    empty_answers: Annotated[
        EmptyAnswers,
        Later(),
        Doc("Trained answers that say nothing, of which the end token alone is trained: keep them or reject the row."),
    ] = "keep"
    tool_text: Annotated[ToolText, Doc("Tools for a template that ignores them: write them as text, or reject.")] = (
        "inline"
    )
    token_hook: TokenHookName = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_on == "all" and self.rewritten_history == "split":
            raise InputError(
                "`train_on=all` with `rewritten_history=split` would train the beginning of a split row several times",
                "use `rewritten_history=reject` or `rewritten_history=mask`, or `train_on=assistant`",
            )


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig(Settings):
    """Settings that a processor is loaded with."""

    title: ClassVar[str] = "Processor"

    fps: Annotated[float | None, Gt(0), Doc("Video frames a second. [default: the processor's]")] = None
    min_frames: Annotated[int | None, Ge(1), Doc("Least frames of a video.")] = None
    max_frames: Annotated[int | None, Ge(1), Doc("Most frames of a video.")] = None
    max_pixels: Annotated[
        int | None,
        Ge(1),
        Later(),
        Doc(
            "Most pixels of a picture, and what the video processor takes under this name; larger ones are scaled "
            "down. [default: the processor's]"
        ),
    ] = None
    min_pixels: Annotated[
        int | None, Ge(1), Later(), Doc("The same for small ones, which are scaled up. [default: the processor's]")
    ] = None
    processor_args: Annotated[
        dict[str, Any],
        Flag("--processor-arg", example="do_pan_and_scan=true"),
        Doc(
            "A setting of the image, video or audio processor as key=value, e.g. do_pan_and_scan=true; may be repeated."
        ),
    ] = field(default_factory=dict)
    chat_template: Annotated[
        str | None,
        ReadsFile(),
        Doc("A Jinja file, or a JSON or folder that holds one, to use in place of the processor's own chat template."),
    ] = None
    template_date: Annotated[
        str | None,
        Later(),
        Doc("The day, as 2026-07-31, that a chat template writes which asks for it. [default: the day a run begins]"),
    ] = None
    trust_remote_code: TrustRemoteCode = False
    video_sampling: Annotated[
        str,
        Later(),
        Doc("Frames of a video file: transformers (the processor's), qwen_vl_utils, llava, keyframes, uniform:N."),
    ] = "transformers"
    video_times: Annotated[
        VideoTimes, Later(), Doc("Times written for a video whose rate varies: its frames' own, or by its mean rate.")
    ] = "frames"
    left_out: Annotated[
        LeftOut,
        Later(),
        Doc(
            "Pictures whose edges the processor crops and videos of which it takes fewer frames than its rate asks: "
            "written as the processor takes them, and counted, or rejected."
        ),
    ] = "keep"
    audio_in_video: Annotated[bool, Doc("Interleave videos with their sound (Qwen-Omni).")] = False
    sound_offset: Annotated[
        SoundOffset,
        Later(),
        Doc(
            "Sound that starts later or earlier than its video's pictures: from 0 all the same, as transformers' own "
            "reader gives it, or where it is heard, with silence before it or its beginning left out."
        ),
    ] = "ignore"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"transformers|qwen_vl_utils|llava|keyframes|uniform:[1-9]\d{0,5}", self.video_sampling):
            rules = "it is transformers, qwen_vl_utils, llava, keyframes, or uniform:N, such as uniform:32"
            raise InputError(f"`video_sampling={self.video_sampling}`: no such rule", rules)
        if self.template_date is not None and not is_day(self.template_date):
            raise InputError(f"`template_date={self.template_date}`: no such day", "write it as 2026-07-31")
        if self.sound_offset == "keep" and not self.audio_in_video:
            raise InputError("`sound_offset=keep` changes nothing without `audio_in_video`", "leave one or give both")
        for few, many in (("min_frames", "max_frames"), ("min_pixels", "max_pixels")):
            least, most = getattr(self, few), getattr(self, many)
            if least is not None and most is not None and least > most:
                raise InputError(f"`{few}={least}` is more than `{many}={most}`", "lower the one or raise the other")
        for name in ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels"):
            own, other = getattr(self, name), self.processor_args.get(name)
            if own is not None and other is not None and own != other:
                raise InputError(f"`{name}={own:g}` overrides `processor_args` {name}={other!r}", "leave one out")

    @property
    def part_settings(self) -> dict[str, Any]:
        """What `from_pretrained` is given for the image, video and audio processors."""
        pixels = {"max_pixels": self.max_pixels, "min_pixels": self.min_pixels}
        return self.processor_args | {name: value for name, value in pixels.items() if value is not None}

    @property
    def processor(self) -> ProcessorConfig:
        """These settings alone, without those of the other groups that a subclass has."""
        return ProcessorConfig(**{each.name: getattr(self, each.name) for each in fields(ProcessorConfig)})

    def to_stored(self) -> dict[str, Any]:
        """Return these settings under the names that manifests have them by."""
        return {"args" if name == "processor_args" else name: value for name, value in self.processor.to_json().items()}

    @staticmethod
    def from_stored(stored: Mapping[str, Any]) -> ProcessorConfig:
        """Read what `to_stored` returned."""
        names = {"args": "processor_args"}
        return ProcessorConfig(**{names.get(name, name): value for name, value in stored.items()})


@dataclass(frozen=True, kw_only=True)
class ProofConfig(Settings):
    """How much of a run is proved."""

    title: ClassVar[str] = "Proof"

    verify_fraction: Annotated[
        float,
        Ge(0.0),
        Le(1.0),
        Doc("Share of rows compared with the real processor, at least 8 for each kind of media (0: none)."),
    ] = 0.01


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig(ProofConfig, BoxConfig, ProcessorConfig, MediaCheck, LabelConfig, PayloadConfig, LengthConfig):
    """Settings of `tokenize` that shape its output; of a base class further to the right they come first."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig(MediaCheck):
    """Settings of `ingest` that shape its output."""
