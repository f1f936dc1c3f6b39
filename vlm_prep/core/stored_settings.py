"""Settings that a store or a note of an unfinished run says, read as somebody else's word.

They say how rows were made, and are taken for that. What they cannot say is that Python code of a processor may run
here: that is said by whoever gives a command or a call, each time anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.fields import Settings

Group = TypeVar("Group", bound=Settings)


def stored_settings(
    kind: type[Group],
    stored: Mapping[str, Any],
    where: object,
    *,
    trust_remote_code: bool = False,
    token_hook: str | None = None,
) -> Group:
    """Return the settings of a kind that a store was made with.

    Args:
        kind: which settings.
        stored: what the store says.
        where: the store.
        trust_remote_code: whether the user says that code of the processor may run.
        token_hook: the hook that the user says may run.

    Raises:
        StoreError: they are none of this kind, or they need code and the user does not say so.
    """
    try:
        made = kind(**stored)
    except (TypeError, InputError) as error:
        raise StoreError(f"{where}: its settings cannot be read: {error}", "make the store again") from error
    if not trust_remote_code:
        must_not_need_code(made, where)
    must_name_the_hook("token_hook", getattr(made, "token_hook", None), token_hook, where)
    return made


def must_name_the_hook(setting: str, stored: object, given: str | None, where: object) -> None:
    """Refuse to run a function because a store says so, and another one than it was made with.

    Args:
        setting: token_hook or row_hook.
        stored: what the store says; None for none.
        given: what the user says.
        where: the store.

    Raises:
        StoreError: they are not the same.
    """
    if stored == given:
        return
    if not stored:
        raise StoreError(f"{where}: its rows went through no {setting}", f"leave `{setting}` out")
    raise StoreError(
        f"{where}: its rows went through {setting} {stored!r}; no code is run because a store says so",
        f"if that code is yours, say so: `{setting}={stored}` (behind `vlm-prep why DIR --config DIR/run.yaml`)",
    )


def must_not_need_code(settings: Settings, where: object) -> None:
    """Refuse settings that a store says and with which code of a processor would run.

    Raises:
        StoreError: they are such.
    """
    if getattr(settings, "trust_remote_code", False):
        raise StoreError(
            f"{where} was made with Python code that comes with its processor",
            "a store does not decide that code runs: read that code, and give `trust_remote_code=true` together with "
            "`processor`, the place of the processor whose code you trust",
        )


def must_name_the_processor(trust_remote_code: bool, processor: str | None, where: object) -> None:
    """Refuse to run code that comes with whatever processor a store names.

    Raises:
        InputError: the user trusts code and does not say whose.
    """
    if trust_remote_code and processor is None:
        raise InputError(
            f"`trust_remote_code=true`: whose code? {where} says where the processor was, which is the store's word",
            "give `processor`, the place of the processor whose code you trust",
        )
