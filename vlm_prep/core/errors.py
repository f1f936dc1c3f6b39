"""What can go wrong, at which level, and what the user sees.

Two kinds of trouble never mix. A *row-level* fault raises `Reject`: the row lands in rejects.parquet with a
reason code and the run goes on. A *run-level* fault raises a `VlmPrepError`: the run stops, the CLI prints the
message and what to do (no traceback), and the exit status is the class's `exit_code`.

    VlmPrepError            1   anything that stops a run
    ├── InputError          2   a meta file, data file, column or flag is not usable
    ├── ProcessorError      2   the Hugging Face processor cannot be loaded or is not supported
    ├── OutputError         2   the output folder holds something else, is locked or cannot be written
    ├── StoreError          2   a store is unfinished, damaged or of another version
    ├── ExactnessError      4   our result differs from the real processor's
    └── RejectRateError     3   more rows were rejected than --max-reject-rate allows
        └── FirstRowsError  3   of the first rows, so that nothing is written
"""

from __future__ import annotations

from enum import StrEnum

from vlm_prep.core.plain_text import settled
from vlm_prep.core.visible import visible


class VlmPrepError(Exception):
    """A fault that stops the run.

    Args:
        message: what happened and where.
        hint: what to do about it; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[VlmPrepError], tuple[str, str | None]]:
        # workers send errors to the parent by pickle; the default would lose the hint
        return type(self), (self.message, self.hint)


class InputError(VlmPrepError):
    """A meta file, data file, dataset name, column or flag is not usable."""

    exit_code = 2


class ProcessorError(VlmPrepError):
    """The Hugging Face processor cannot be loaded or used."""

    exit_code = 2


class OutputError(VlmPrepError):
    """The output folder holds another run, is in use, or cannot be written."""

    exit_code = 2


class ChangedStoreError(OutputError):
    """Another run changed a store between a look at it and taking it into work."""


class StoreError(VlmPrepError):
    """A store is unfinished, damaged, or written by another version."""

    exit_code = 2


class ExactnessError(VlmPrepError):
    """Our ids, labels, grids or pixels differ from the real processor's."""

    exit_code = 4


class RejectRateError(VlmPrepError):
    """The share of rejected rows passed --max-reject-rate."""

    exit_code = 3


class FirstRowsError(RejectRateError):
    """Most of the first rows were rejected for one reason; nothing is written."""


class RejectReason(StrEnum):
    """Why a row was not written. The codes are part of the on-disk format: add, never rename."""

    BAD_JSON = "bad_json"
    DUPLICATE_KEY = "duplicate_key"
    BAD_ROW = "bad_row"
    BAD_TYPE = "bad_type"
    MISSING_COLUMN = "missing_column"
    UNREAD_KEY = "unread_key"
    NOT_WANTED = "not_wanted"
    HOOK_ERROR = "hook_error"
    EMPTY_CONVERSATION = "empty_conversation"
    UNKNOWN_ROLE = "unknown_role"
    BAD_TOOL_CALL = "bad_tool_call"
    BAD_TOOLS = "bad_tools"
    NO_ASSISTANT_TURN = "no_assistant_turn"
    MEDIA_COUNT_MISMATCH = "media_count_mismatch"
    MISSING_MEDIA = "missing_media"
    BAD_MEDIA_ENTRY = "bad_media_entry"
    UNSUPPORTED_MEDIA = "unsupported_media"
    MISSING_FILE = "missing_file"
    MISSING_KEY = "missing_key"
    UNREADABLE_FILE = "unreadable_file"
    EMPTY_FILE = "empty_file"
    OUTSIDE_MEDIA_ROOT = "outside_media_root"
    UNREADABLE_IMAGE = "unreadable_image"
    TRUNCATED_IMAGE = "truncated_image"
    IMAGE_TOO_LARGE = "image_too_large"
    ASPECT_RATIO = "aspect_ratio"
    UNREADABLE_VIDEO = "unreadable_video"
    UNREADABLE_AUDIO = "unreadable_audio"
    AUDIO_TOO_SHORT = "audio_too_short"
    AUDIO_TOO_LONG = "audio_too_long"
    EMPTY_TRANSCRIPT = "empty_transcript"
    BAD_FRAME_INDICES = "bad_frame_indices"
    MISSING_FPS = "missing_fps"
    MEDIA_CHANGED = "media_changed"
    TEMPLATE_ERROR = "template_error"
    TEMPLATE_DROPS_CONTENT = "template_drops_content"
    LABELS_UNDECIDABLE = "labels_undecidable"
    REWRITTEN_HISTORY = "rewritten_history"
    LOSS_WEIGHTS = "loss_weights"
    CONTROL_TOKENS = "control_tokens"
    NO_SUPERVISED_TOKENS = "no_supervised_tokens"
    EMPTY_ANSWER = "empty_answer"
    OVERLONG = "overlong"
    TOO_SHORT = "too_short"
    LONGER_THAN_PACK = "longer_than_pack"
    BAD_BOX = "bad_box"
    BOX_OUTSIDE = "box_outside"
    PROCESSOR_ERROR = "processor_error"
    PROCESSOR_DIFFERS = "processor_differs"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    WORKER_CRASHED = "worker_crashed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"


class Reject(Exception):
    """A row that is not written, with its reason code and a message for people, the same one each time, on one line."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        message = visible(settled(message))
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[Reject], tuple[RejectReason, str]]:
        return type(self), (self.reason, self.message)
