"""A function of the user's own between a parsed row and its reading: `row_hook=module:function`.

    def function(row: dict) -> dict | None: ...

It gets the row as it stands in its file, media that lie in it as marks that it hands on, and gives the row that is read
in its place, or None for one that is not wanted. What it raises rejects the row. It has to give the same for the same
row. Its module's source is part of a run's fingerprint. A module is looked for as Python does, and in the working
folder. It is named by the user alone: neither a meta JSON nor a store can ask for code.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.visible import excerpt

Hook = Callable[[Any], Any]


@lru_cache(maxsize=8)
def load_hook(name: str) -> Hook:
    """Return the function that a hook names.

    Raises:
        InputError: there is none.
    """
    module, colon, function = name.partition(":")
    if not colon or not module or not function.isidentifier():
        raise InputError(f"`row_hook={name}`: expected module:function", "For example: my_rows:cleaned.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module's own code runs here
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"`row_hook={name}`: {what}", "Run from the folder of the module, or install it.") from error
    if not callable(found):
        raise InputError(f"`row_hook={name}`: {function} is no function")
    hook: Hook = found
    return hook


def digest_of_hook(name: str) -> str | None:
    """Return the digest of the source of a hook's module, None where it has no file."""
    load_hook(name)
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return digest_file(file) if file and os.path.isfile(file) else None


def hooked(name: str, row: Any) -> Any:
    """Return what a hook makes of a row.

    Raises:
        Reject: not_wanted, it gives None; hook_error, it raises or gives no object.
    """
    hook = load_hook(name)
    try:
        found = hook(row)
    except Exception as error:  # whatever the user's code raises is the row's fault
        what = f"{type(error).__name__}: {excerpt(str(error))}"
        raise Reject(RejectReason.HOOK_ERROR, f"row_hook {name}: {what}") from error
    if found is None:
        raise Reject(RejectReason.NOT_WANTED, f"row_hook {name} leaves the row out")
    if not isinstance(found, dict):
        raise Reject(RejectReason.HOOK_ERROR, f"row_hook {name} gives {excerpt(found)}, not a row")
    return found
