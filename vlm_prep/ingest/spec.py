"""One dataset as ingest sees it: file, format, and the names its columns and roles go by.

`columns` and `tags` hold the names that are known to be right: those the user gave and those `detect` read
off the first row. A column nobody named goes by the first of `COLUMN_NAMES` that a row has, row by row,
because text-only rows at the head of a file must not make the pictures further down invisible.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

from vlm_prep.core.fields import did_you_mean as did_you_mean

Format = Literal["sharegpt", "messages", "alpaca", "asr"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)

COLUMN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "messages": ("messages", "conversations", "conversation"),
    "images": ("images", "image"),
    "videos": ("videos", "video"),
    "audios": ("audios", "audio"),
    "tools": ("tools",),
    "system": ("system",),
    "id": ("id",),
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output",),
    "history": ("history",),
    "text": ("text", "sentence", "transcription", "transcript"),
}
"""Column role → the names it goes by while the user gives none. `id` is accepted and not read: a sample's
id is `<dataset>/<row>`."""

COLUMN_ALIASES: Final[dict[str, str]] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "audio": "audios",
}
"""LLaMA-Factory's names for the alpaca column roles, and the singular that fits a row of one audio file."""

ASR_AUDIO_COLUMNS: Final = (
    *("audio", "audios", "audio_filepath", "audio_path"),
    *("path", "file", "file_name", "wav"),
)
"""Where an asr row's audio is, best first: beside `audio`, a `path` is only its name."""

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
_TOOL_ROLES: Final = ("tool", "observation", "function")


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
    format: Format | None = None
    """None until `detect.resolve` has seen the first row; then rows are read as sharegpt."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column role → the row's key, for the roles that are known."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tag → the message's key (role_tag, content_tag) or the role's value (user_tag, …), where known."""
    sample_ratio: float = 1.0
    tables: tuple[Path, ...] = ()
    """The Parquet or Arrow files that hold the rows, in order; empty for JSON."""
    split: str | None = None
    """Which split of a folder `tables` is."""
    system_prompt: str | None = None
    """What an asr row's conversation begins with; None for nothing, as for a blank."""
    user_prompt: str | None = None
    """What stands before an asr row's audio."""
    min_duration: float | None = None
    """Shortest audio that is kept, in seconds."""
    max_duration: float | None = None

    @property
    def folder(self) -> Path:
        """Where relative media paths start unless the user says otherwise."""
        return self.file if self.tables and self.tables != (self.file,) else self.file.parent

    def column_names(self, role: str) -> tuple[str, ...]:
        """Return the row keys to look under for a column role, best first."""
        named = self.columns.get(role)
        return COLUMN_NAMES[role] if named is None else (named,)

    def tag(self, name: str) -> str:
        """Return a tag's value, by default the one of role/content messages."""
        return self.tags.get(name, DEFAULT_TAGS[name])

    @cached_property
    def roles(self) -> dict[str, str]:
        """Source role → system, developer, user, assistant, tool or `TOOL_CALL`."""
        roles = dict.fromkeys(
            _TOOL_ROLES if "tool_tag" not in self.tags else (self.tags["tool_tag"],), "tool"
        )
        roles["developer"] = "developer"
        roles[self.tag("tool_call_tag")] = TOOL_CALL
        for role in ("system", "user", "assistant"):
            roles[self.tag(f"{role}_tag")] = role
        return roles
