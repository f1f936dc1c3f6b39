"""Functions of the user's own that a setting names as module:function: `row_hook`, `token_hook`.

A module is looked for as Python does, and in the working folder. The digest of its source is part of a run's
fingerprint. It is named by the user alone: neither a meta JSON nor a store can ask for code.
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
def load_hook(name: str, setting: str) -> Hook:
    """Return the function that a setting names.

    Raises:
        InputError: there is none.
    """
    module, colon, function = name.partition(":")
    if not colon or not module or not function.isidentifier():
        raise InputError(f"`{setting}={name}`: expected module:function", "For example: my_rows:cleaned.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module's own code runs here
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"`{setting}={name}`: {what}", "Run from the folder of the module, or install it.") from error
    if not callable(found):
        raise InputError(f"`{setting}={name}`: {function} is no function")
    hook: Hook = found
    return hook


def digest_of_hook(name: str, setting: str) -> str | None:
    """Return the digest of the source of a hook's module, None where it has no file."""
    load_hook(name, setting)
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return digest_file(file) if file and os.path.isfile(file) else None


def called(name: str, setting: str, given: Any) -> dict[str, Any]:
    """Return what a hook makes of what it is given.

    Raises:
        Reject: not_wanted, it gives None; hook_error, it raises or gives no object.
    """
    hook = load_hook(name, setting)
    try:
        found = hook(given)
    except Exception as error:  # whatever the user's code raises is the row's fault
        what = f"{type(error).__name__}: {excerpt(str(error))}"
        raise Reject(RejectReason.HOOK_ERROR, f"{setting} {name}: {what}") from error
    if found is None:
        raise Reject(RejectReason.NOT_WANTED, f"{setting} {name} leaves the row out")
    if not isinstance(found, dict):
        raise Reject(RejectReason.HOOK_ERROR, f"{setting} {name} gives {excerpt(found)}, not a row")
    return found
