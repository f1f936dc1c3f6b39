"""What is trained of a conversation, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from turns import assistant, system, user

from vlm_prep.core.errors import Reject

Styled = Callable[..., Any]
Turns = list[dict[str, Any]]


def trained(made: Any, turns: Turns, **options: Any) -> str:
    """The trained text of a row that becomes one document, or the reason of its reject."""
    try:
        (told,) = made.look(turns, **options)
    except Reject as reject:
        return f"rejected: {reject.reason.value}"
    return str(told.trained)


# --- answers, style by style -----

ANSWERS: dict[str, Turns] = {
    "plain": [user("Hi"), assistant("Hello.")],
    "line break first": [user("Hi"), assistant("\nHello.")],
    "blanks around": [user("Hi"), assistant("  Hello. \n")],
    "digits": [user("Hi"), assistant("42")],
    "repeats the question": [user("Is it no cat? no"), assistant("no")],
    "empty": [user("Hi"), assistant("")],
    "media tokens as text": [user("Hi"), assistant("a <|image_pad|> [IMG] <start_of_image> b")],
    "two turns": [user("A?"), assistant("a"), user("B?"), assistant("b")],
    "two answers in a row": [user("A?"), assistant("a"), assistant("b")],
    "system prompt": [system("Be brief."), user("A?"), assistant("a")],
    "question last": [user("A?"), assistant("a"), user("Thanks.")],
    "answer first": [assistant("a"), user("A?"), assistant("b")],
}
