"""What reading a row left behind beside its sample: what was read in another form, and which keys nobody reads.

A key that is not read is no fault, as long as it is said: it is counted with an example. Some keys change what a row
means in the tool that wrote it (a mask, an answer not to be trained, a part of a video). Those are read with their
meaning (`common.training_options`) or reject the row, because training on the row without them would be another task
than the source asks for. `ignore_keys` says that a key means nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.embedded import AddressText, EmbeddedBytes, EmbeddedText

NOTES: Final[dict[str, str]] = {
    "read_other_tags": "whose keys or role names are not those of the first row",
    "read_key_case": "with keys or columns in other letter case, or with blanks around them",
    "read_bare_messages": "that are a list of their messages, in no column",
    "read_other_format": "that are conversations, pairs of texts or speech, where the first row is another of these",
    "read_pairs": "whose turns are objects of a question and its answer",
    "read_turns_by_key": "whose roles and texts are lists side by side",
    "read_media_by_key": "whose media's paths and bytes are lists side by side",
    "read_doubles": "with one thing given twice, equally",
    "read_message_media": "with media beside the text of their message, as Ollama has them",
    "read_media_columns": "with media in a column of a less usual name",
    "read_path_keys": "with media whose path has a less usual name in its entry (file_name, img, ...)",
    "read_empty_media": "with nulls or empty texts among their media, which no placeholder asks for",
    "read_nested_media": "with a list in the list of their media",
    "read_media_first": "without placeholders, with their media put before the first user text (missing_tags=first)",
    "read_media_again": "with one media for several placeholders (repeated_tags=same)",
    "read_answer_media": "with tags in answers that are media, since there are as many media as tags with them alone",
    "read_part_tags": "with tags in texts of typed parts that are media, since only so each media has one",
    "read_video_as_image": "whose <image> stands for a video, since they have no picture and as many videos",
    "read_path_in_tags": "with paths between tags in their texts (<img>a.png</img>)",
    "read_tag_spellings": "with placeholders of another tool or model (<image_1>, [image], <image></image>)",
    "read_named_tags": "whose media column names the tag of each media",
    "read_untyped_content": "with content as one object, or with parts that are texts, null or say no usual type",
    "read_tool_blocks": "with tool calls or results as blocks of a message's content (Anthropic)",
    "read_joined_calls": "with calls in turns of their own, after an answer or other calls, with which they are one",
    "read_langchain": "whose messages are LangChain's, by their type or as pairs of a role and a text",
    "read_gemini": "whose messages are parts in Gemini's form",
    "read_completion_text": "whose prompt or completion is a text, read as the user's or the assistant's turn",
    "read_json_text": "that are JSON text, or whose conversation, content, history or list of media is, in its column",
    "read_skipped_turns": "with turns that their mapping leaves out",
    "read_training_keys": "with training options under another tool's name",
    "read_repeated_keys": "with a key twice in one object, with the same value",
    "read_not_a_number": "with NaN or Infinity where nobody reads it",
    "read_lenient": "that are JSON only by lenient_json",
    "read_lenient_file": "of files with comments or last commas between their rows (lenient_json)",
    "read_cr_lines": "of files whose lines end with a carriage return alone",
    "read_objects": "of files of objects one after the other, over any number of lines",
    "read_keyed": "of files that are one object, whose values are the rows",
    "read_wrapped": "of files that are one object, with the rows under a key (rows_key)",
    "read_encoding": "of files in another encoding than UTF-8",
    "read_delimited": "of CSV files whose fields are parted by semicolons or tabs, and of TSV files with quotes",
}
"""Name of a note, as it stands in the totals → what it says of a number of rows."""

_PREFERENCE = "belongs to preference data, which also says what not to answer"
_MASK = "says what is trained, in a form that is not read for a whole row"
_SEGMENT = (
    "takes a part of a video or audio; that is applied in seconds (`start` and `end`, `offset` and `duration`) where "
    "the row has one such file, else put it into the media's own entry"
)
_PREFERENCES: Final = (
    *("rejected_response", "rejected_messages", "rejected_images", "rejected", "chosen"),
    *("preferred_output", "non_preferred_output"),
)
ROW_KEYS_WITH_MEANING: Final[dict[str, str]] = {
    **dict.fromkeys(_PREFERENCES, _PREFERENCE),
    **dict.fromkeys(("label", "kto_tag"), "says whether the answer is a good one (KTO), or the class to predict"),
    **dict.fromkeys(("loss_mask", "loss_masks", "loss_scale", "mask", "assistant_masks", "completion_mask"), _MASK),
    **dict.fromkeys(("train_detail", "training_detail", "train_on_turn", "training"), _MASK),
    "chat_template_kwargs": "gives arguments to the chat template, which are not given",
    **dict.fromkeys(("loss", "loss_weight", "train", "trainable", "is_trainable"), _MASK),
    **dict.fromkeys(("calculate_loss", "compute_loss", "no_loss", "skip_loss", "ignore_loss", "mask_loss"), _MASK),
    **dict.fromkeys(("better_response_id", "better_response"), _PREFERENCE),
}
"""Keys of a row that change what it means in LLaMA-Factory, ms-swift, axolotl, TRL or NeMo, and are not applied."""
SEGMENT_KEYS_WITH_MEANING: Final[dict[str, str]] = {
    **dict.fromkeys(("start", "end", "start_time", "end_time", "offset", "begin", "begin_time"), _SEGMENT),
    **dict.fromkeys(
        (
            f"{end}_{unit}"
            for unit in ("frame", "ms", "sample", "s", "sec", "secs", "seconds")
            for end in ("start", "end")
        ),
        _SEGMENT,
    ),
    **dict.fromkeys(("offset_ms", "frame_offset"), _SEGMENT),
    **dict.fromkeys(
        (f"{kind}_{end}" for kind in ("video", "audio", "clip", "segment") for end in ("start", "end")), _SEGMENT
    ),
    **dict.fromkeys(("start_timestamp", "end_timestamp"), _SEGMENT),
    "channel_selector": "picks channels of a sound (NeMo), whose mean is taken here",
}
"""Likewise, in a row whose video or audio is a file, unless they are applied (`row_parts`)."""
_OFF_KEYS: Final = frozenset(("no_loss", "skip_loss", "ignore_loss", "mask_loss"))
_ON_KEYS: Final = frozenset(("loss_weight", "trainable", "is_trainable", "calculate_loss", "compute_loss"))
MESSAGE_KEYS_WITH_MEANING: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("mask", "masked", "is_masked"), "says what is masked, and tools disagree on what 1 means; use train"
    ),
    **dict.fromkeys(
        ("no_loss", "skip_loss", "ignore_loss", "mask_loss"), "says what is not trained, which is not read; use train"
    ),
    **dict.fromkeys(
        ("thought", "thoughts"),
        "may be its reasoning, which is read as reasoning_content, or a part of what it says",
    ),
    **dict.fromkeys(
        ("train_detail", "training_detail"), "trains ranges of characters; give parts of their own, with train"
    ),
    **dict.fromkeys(
        ("images", "image", "videos", "video", "audios", "audio"),
        "holds media of one message, of which it is not said where they stand; write a tag in its text for each, or "
        "give them as parts of its content",
    ),
}
_GROUNDING: Final = re.compile(r"<(?:ref-object|bbox|cls-ref|quad|point|polygon)>")
MEDIA_NAME: Final = (
    r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic|mp4|mkv|webm|mov|avi|m4v|wav|mp3|flac|ogg|opus|m4a|aac)"
)
"""How the name of a media file ends."""
_MEDIA_NAME: Final = re.compile(f"{MEDIA_NAME}$", re.IGNORECASE)


@dataclass(slots=True)
class Noticed:
    """What was noticed while one row was read."""

    ignored: frozenset[str] = frozenset()
    """Keys that the user says mean nothing."""
    notes: set[str] = field(default_factory=set)
    unread: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str) -> None:
        """Note that the row was read in another form than the first; `name` is one of `NOTES`."""
        self.notes.add(name)

    def leave(self, place: str, item: Mapping[str, Any], read: Container[str]) -> None:
        """Note the keys of an object that hold something and are not among those read.

        Args:
            place: what it is: row, message, part, or a kind of media.
            item: the object.
            read: the keys that are read.
        """
        for key in item:
            if key not in read and key not in self.ignored and not is_empty(item[key]):
                self.unread.setdefault(f"{place}.{key}", item[key])

    def refuse(self, where: str, item: Mapping[str, Any], meanings: Mapping[str, str]) -> None:
        """Refuse an object with a key that other tools give a meaning, see this module.

        Raises:
            Reject: UNREAD_KEY.
        """
        if meanings.keys().isdisjoint(item):
            return
        for key in item:
            if key in meanings and key not in self.ignored and not _trains_as_ever(key, item[key]):
                raise unread_key(where, key, item[key], meanings[key])

    def refuse_grounding(self, row: Mapping[str, Any], messages: Iterable[Mapping[str, Any]]) -> None:
        """Refuse a row whose texts hold tags that an `objects` column was to replace (ms-swift).

        Raises:
            Reject: UNREAD_KEY.
        """
        if is_empty(row.get("objects")) or "objects" in self.ignored:
            return
        texts = (part.get("text", "") for message in messages for part in message["content"])
        if tag := next((found[0] for text in texts if (found := _GROUNDING.search(text))), None):
            raise unread_key(
                "the row",
                "objects",
                row["objects"],
                f"was to take the place of {tag} in the text (`keep_columns=objects` with `boxes` puts it there)",
            )


def unread_key(where: str, key: str, value: Any, meaning: str) -> Reject:
    """Return the reject of a row with a key that has a meaning and is not applied."""
    message = f"{where} has {key} ({excerpt(value)}), which {meaning}; `ignore_keys={key}` reads the row without it"
    return Reject(RejectReason.UNREAD_KEY, message)


def _trains_as_ever(key: str, value: Any) -> bool:
    """Return whether a key says nothing, or that all is trained, as it would be without it.

    `loss` and `train` are also the names of a measure and of a side of a split: only false and 0 are about training.
    """
    if key in ("loss", "train"):
        return value is not False and value != 0
    return is_empty(value) or (key in _ON_KEYS and value == 1) or (key in _OFF_KEYS and value == 0)


def is_empty(value: Any) -> bool:
    """Return whether a value says nothing: null, NaN, an empty text, list or object."""
    return value is None or value == "" or value == [] or value == {} or is_nan(value)


def is_nan(value: Any) -> bool:
    """Return whether a value is no number where one was to be, as tables write what is missing."""
    return isinstance(value, float) and value != value


def looks_like_media(value: Any) -> bool:
    """Return whether a value that nobody reads seems to be media: its bytes, or the name of a file."""
    if isinstance(value, list):
        return any(looks_like_media(each) for each in value[:8])
    if isinstance(value, dict):
        return any(looks_like_media(each) for each in list(value.values())[:8])
    if isinstance(value, EmbeddedBytes | EmbeddedText) and not isinstance(value, AddressText):
        return True
    return isinstance(value, str) and len(value) < 4096 and _MEDIA_NAME.search(value) is not None


def media_role(value: Any) -> str:
    """Return the column role of media that nobody reads, by how its name ends."""
    written = str(next((each for each in value if each), "") if isinstance(value, list) else value)
    if re.search(r"\.(?:wav|mp3|flac|ogg|opus|m4a|aac)\b", written, re.IGNORECASE):
        return "audios"
    return "videos" if re.search(r"\.(?:mp4|mkv|webm|mov|avi|m4v)\b", written, re.IGNORECASE) else "images"
