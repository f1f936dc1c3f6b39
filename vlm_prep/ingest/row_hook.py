"""A function of the user's own between a parsed row and its reading: `row_hook=module:function`.

    def function(row: dict) -> dict | None: ...

It gets the row as it stands in its file, media that lie in it as marks that it hands on, and gives the row that is read
in its place, or None for one that is not wanted. What it raises rejects the row. It has to give the same for the same
row. See `core.user_code`.
"""

from __future__ import annotations

from typing import Any, Final

from vlm_prep.core.user_code import called, digest_of_hook

_SETTING: Final = "row_hook"


def hooked(name: str, row: Any) -> dict[str, Any]:
    """Return what a hook makes of a row.

    Raises:
        Reject: not_wanted, it gives None; hook_error, it raises or gives no object.
    """
    return called(name, _SETTING, row)


def row_hook_digest(name: str) -> str | None:
    """Return the digest of the source of a hook's module, None where it has no file."""
    return digest_of_hook(name, _SETTING)
