"""One dataset as ingest sees it: file, format, and the names its columns and roles go by.

`columns` and `tags` hold the names that are known to be right: those the user gave and those `detect` read
off the first row. A column nobody named goes by the first of `COLUMN_NAMES` that a row has, row by row,
because text-only rows at the head of a file must not make the pictures further down invisible.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean as did_you_mean
from vlm_prep.core.settings import MissingTags, RepeatedTags, TagBlanks
from vlm_prep.ingest.mapping.compiled import compiled
from vlm_prep.media.downloads import Downloads, downloads_folder
from vlm_prep.media.places import Roots, check_roots
from vlm_prep.media.text_files import utf8_path

Format = Literal["sharegpt", "messages", "alpaca", "texts", "completion", "asr", "mapping"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)

COLUMN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "messages": ("messages", "conversations", "conversation"),
    "images": ("images", "image"),
    "videos": ("videos", "video", "video_frames"),
    "audios": ("audios", "audio"),
    "tools": ("tools", "functions"),
    "system": ("system", "system_prompt"),
    "id": ("id",),
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output",),
    "history": ("history",),
    "texts": ("texts",),
    "prompt": ("prompt",),
    "completion": ("completion",),
    "text": ("text", "sentence", "transcription", "transcript"),
}
"""Column role → the names it goes by while the user gives none. `id` is accepted and not read: a sample's
id is `<dataset>/<row>`."""

MEDIA_COLUMN_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    f"{kind}s": tuple(f"{kind}_{what}{end}" for what in ("path", "file", "url") for end in ("", "s")) + more
    for kind, more in (
        ("image", ("img", "imgs", "img_path", "img_paths")),
        ("video", ("frames", "frame_paths")),
        ("audio", ("audio_filepath", "sound", "sounds")),
    )
}
"""Other names of media columns in conversations; beside a column that holds bytes they are the names of its files."""

COLUMN_ALIASES: Final[dict[str, str]] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "audio": "audios",
}
"""LLaMA-Factory's names for the alpaca column roles, and the singular that fits a row of one audio file."""

QUERY_COLUMNS: Final = {"instruction": "query", "output": "response"}
"""The columns of ms-swift's rows that are no conversation."""

ASR_AUDIO_COLUMNS: Final = (
    *("audio", "audios", "audio_filepath", "audio_path"),
    *("path", "file", "file_name", "wav"),
)
"""Where an asr row's audio is, best first: beside `audio`, a `path` is only its name."""
ASR_AUDIO: Final = ASR_AUDIO_COLUMNS[:4]
"""Those of them that are audio by their name alone."""

DEFAULT_TAGS: Final[dict[str, str]] = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "tool_tag": "tool",
    "tool_call_tag": "function_call",
}
FROM_VALUE_TAGS: Final[dict[str, str]] = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "tool_tag": "observation",
    "tool_call_tag": "function_call",
}
TAG_ALIASES: Final[dict[str, str]] = {"observation_tag": "tool_tag", "function_tag": "tool_call_tag"}

TOOL_CALL: Final = "tool_call"
"""What `DatasetSpec.roles` says of a turn whose whole text is a function call."""
ROLE_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "system_tag": ("system",),
    "user_tag": ("user", "human", "prompter"),
    "assistant_tag": ("assistant", "gpt", "bot", "model", "chatgpt", "ai"),
    "tool_tag": ("tool", "observation", "function", "tool_response", "function_response", "ipython"),
    "tool_call_tag": ("function_call", "tool_call"),
}
"""Tag → the role names, in any letter case, that mean it as long as the user names none."""
_ROLES: Final = {"system_tag": "system", "user_tag": "user", "assistant_tag": "assistant", "tool_tag": "tool"}


TextForm = Literal["array", "lines", "cr_lines", "objects", "keyed", "wrapped"]
"""How rows stand in a text file, see `ingest.json_scan`; cr_lines end with a carriage return alone."""


@dataclass(frozen=True)
class TextReading:
    """How the user says that a text file is to be read."""

    encoding: str | None = None
    lenient_json: bool = False
    rows_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Where one dataset is and how its rows are read."""

    name: str
    file: Path
    """The data file, or the folder of a dataset of tables; absolute."""
    file_name: str
    """The data file as the meta file writes it; what reports and rejects show."""
    media_dir: Path | str
    """Absolute folder that relative media paths start from; a str is a place on an object store."""
    format: str | None = None
    """One of `FORMATS` or of a package (`ingest.format_packages`); None until `detect.resolve` has seen the first row;
    then rows are read as sharegpt."""
    is_given_format: bool = False
    """Whether the user gave it, and not the first row."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column role → the row's key, for the roles that are known."""
    given_columns: frozenset[str] = frozenset()
    """The roles whose columns the user gave."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tag → the message's key (role_tag, content_tag) or the role's value (user_tag, …), where known."""
    given_tags: frozenset[str] = frozenset()
    """The tags that the user gave: what they name goes by this name alone. The others are what the first row has, and a
    message may go by any usual name."""
    sample_ratio: float = 1.0
    tables: tuple[Path, ...] = ()
    """The Parquet or Arrow files that hold the rows, in order; empty for JSON."""
    rows: tuple[tuple[int, int], ...] = ()
    """Ranges of the rows of all tables that are read, in order; empty for all of them."""
    subset: str | None = None
    """Which configuration of a folder or hub set."""
    commit: str | None = None
    """Of a hub set: the commit of its files."""
    limit: int | None = None
    """Most rows that are read of it."""
    side: str | None = None
    """Of which side of which split the picks are, see `core.sides`."""
    split: str | None = None
    """Which split of a folder `tables` is."""
    system_prompt: str | None = None
    """What an asr row's conversation begins with; None for nothing, as for a blank."""
    user_prompt: str | None = None
    """What stands before an asr row's audio."""
    min_duration: float | None = None
    """Shortest audio that is kept, in seconds."""
    max_duration: float | None = None
    missing_tags: MissingTags = "reject"
    """A row with media and no placeholder for them: rejected, or with them before its first user text."""
    repeated_tags: RepeatedTags = "reject"
    """Several placeholders for the one media of its kind: rejected, or that one for each."""
    tag_blanks: TagBlanks = "keep"
    """Whether blanks at the ends of user texts and around their placeholders are a part of them."""
    ignore_keys: tuple[str, ...] = ()
    """Keys of rows, messages, parts and media entries that mean nothing here."""
    keep_columns: tuple[str, ...] = ()
    """Row keys whose values travel with the rows, as their id does."""
    kept: tuple[str, ...] = ()
    """These, and the id's where the first rows have one; filled by `detect.resolve`."""
    encoding: str | None = None
    """Of a text file that is not UTF-8 and says so by no byte order mark."""
    lenient_json: bool = False
    """Take comments, trailing commas, Python literals and raw control characters for JSON."""
    rows_key: str | None = None
    """The key of an object under which its rows stand; a path of keys is written with dots."""
    downloads: Downloads | None = None
    """From where media by http(s) are fetched; None rejects them."""
    row_hook: str | None = None
    """The user's function that each row goes through, see `ingest.row_hook`."""
    mapping: str | None = None
    """What format mapping makes of a row, as canonical JSON; see `ingest.mapping`."""

    @property
    def is_mock(self) -> bool:
        """Whether its rows are made up, see `ingest.mock_rows`."""
        return self.file_name.startswith("mock:")

    @property
    def is_outside(self) -> bool:
        """Whether its format is a package's."""
        return self.format is not None and self.format not in FORMATS

    @property
    def reading(self) -> TextReading:
        """How its text is read."""
        return TextReading(self.encoding, self.lenient_json, self.rows_key)

    @property
    def text(self) -> str:
        """The path of its text in UTF-8: the file's own, or that of a copy.

        Raises:
            InputError: it does not decode.
        """
        return utf8_path(self.file, self.encoding)

    @contextmanager
    def own_name(self) -> Iterator[None]:
        """Name the file itself in an error of the copy of its text."""
        try:
            yield
        except InputError as error:
            raise InputError(error.message.replace(self.text, str(self.file)), error.hint) from error

    @property
    def folder(self) -> Path:
        """Where relative media paths start unless the user says otherwise."""
        return self.file if self.tables and self.tables != (self.file,) else self.file.parent

    @cached_property
    def near(self) -> Roots:
        """Its folder, that of its media and that of what is fetched, within which rows' media are expected."""
        own = frozenset(os.path.realpath(path) for path in self.tables)
        fetched = () if self.downloads is None else (str(downloads_folder()),)
        places = (Path(self.media_dir), *Path(self.media_dir).parents)
        # a snapshot of the hub's cache, <set>/snapshots/<commit>, has links into <set>/blobs
        linked = [str(each.parent.parent) for each in places if each.name == self.commit]
        return check_roots((str(self.folder), str(self.media_dir), *fetched, *linked), own)

    @cached_property
    def media_first(self) -> DatasetSpec:
        """The same with media that no text asks for before the first user text."""
        return self if self.missing_tags == "first" else replace(self, missing_tags="first")

    def column_names(self, role: str) -> tuple[str, ...]:
        """Return the row keys to look under for a column role, best first."""
        found = self.names_of.get(role)
        if found is None:
            found = self.names_of[role] = self._column_names(role)
        return found

    def _column_names(self, role: str) -> tuple[str, ...]:
        named = self.columns.get(role)
        if named is None:
            return COLUMN_NAMES[role]
        # the first row's name of the conversation is one of several, row by row
        found = role == "messages" and role not in self.given_columns
        return tuple(dict.fromkeys((named, *COLUMN_NAMES[role]))) if found else (named,)

    def tag(self, name: str) -> str:
        """Return a tag's value, by default the one of role/content messages."""
        return self.tags.get(name, DEFAULT_TAGS[name])

    @cached_property
    def media_names(self) -> dict[str, tuple[str, ...]]:
        """Role of a media column → the row keys it may go by in a conversation, best first."""
        return {
            role: self.column_names(role) + (() if role in self.columns else aliases)
            for role, aliases in MEDIA_COLUMN_ALIASES.items()
        }

    @cached_property
    def media_keys(self) -> frozenset[str]:
        """All row keys of media columns."""
        return frozenset(name for names in self.media_names.values() for name in names)

    @cached_property
    def mapped(self) -> DatasetSpec:
        """How the rows are read that its mapping makes: media it names columns for are under the role itself."""
        media = compiled(self.mapping or "").media
        columns = {role: name for role, name in self.columns.items() if role in MEDIA_COLUMN_ALIASES}
        return replace(self, columns=columns | {role: role for role in media}, tags={}, given_tags=frozenset())

    @cached_property
    def keys_mapped(self) -> frozenset[str]:
        """All row keys that its mapping reads."""
        return compiled(self.mapping or "").names | self.mapped.media_keys | {"id"}

    @cached_property
    def keys_read(self) -> dict[tuple[str, ...], frozenset[str]]:
        """Column roles that give the messages → all row keys that are read; filled by `formats.conversation`."""
        return {}

    @cached_property
    def dialects(self) -> dict[bool, Any]:
        """Whether tags in texts stand for media → how messages are spelt; filled by `formats.row_turns`."""
        return {}

    @cached_property
    def other_forms(self) -> dict[tuple[str, tuple[str, ...]], DatasetSpec]:
        """Format and columns → how rows of them are read; filled by `formats.row_format`."""
        return {}

    @cached_property
    def names_of(self) -> dict[str, tuple[str, ...]]:
        """Column role → `column_names` of it; filled as they are asked for."""
        return {}

    @cached_property
    def role_keys(self) -> tuple[str, ...]:
        """The keys under which a message may say its role."""
        return self._keys("role_tag")

    @cached_property
    def content_keys(self) -> tuple[str, ...]:
        """The keys under which a message may have its content."""
        return self._keys("content_tag")

    def _keys(self, tag: str) -> tuple[str, ...]:
        first = self.tag(tag)
        return (
            (first,)
            if tag in self.given_tags
            else tuple(dict.fromkeys((first, DEFAULT_TAGS[tag], FROM_VALUE_TAGS[tag])))
        )

    @cached_property
    def usual_roles(self) -> frozenset[str]:
        """The role names of the first row's style."""
        tools = () if "tool_tag" in self.tags else ROLE_NAMES["tool_tag"]
        return frozenset(("developer", *tools, *(self.tag(tag) for tag in ROLE_NAMES)))

    @cached_property
    def roles(self) -> dict[str, str]:
        """Source role, in small letters unless the user gave it → system, developer, user, assistant, tool or
        `TOOL_CALL`."""
        roles = {"developer": "developer"}
        for tag, names in ROLE_NAMES.items():
            usual = () if tag in self.given_tags else names
            roles |= dict.fromkeys((*usual, *filter(None, (self.tags.get(tag),))), _ROLES.get(tag, TOOL_CALL))
        return roles | {self.tags[tag]: _ROLES.get(tag, TOOL_CALL) for tag in self.given_tags & ROLE_NAMES.keys()}
