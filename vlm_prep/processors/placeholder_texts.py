"""What a chat template writes for a media, found by rendering one between two texts."""

from __future__ import annotations

from itertools import takewhile

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import MediaKind
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.processors.row_call import Written

_SENTINEL = "vlmprepsentinel"


def written_for(loaded: LoadedProcessor, kind: MediaKind) -> list[Written]:
    """Return what may stand for a media part: the processor's token, another token, a text.

    Raises:
        Exception: whatever the template raises.
    """
    hf = loaded.hf
    part = {"type": "text", "text": _SENTINEL}
    text = _rendered(loaded, [part, {"type": kind}, part])
    pieces = text.split(_SENTINEL)
    between = pieces[1] if len(pieces) > 2 else ""
    if not between.strip():
        # it writes media before, or behind, all texts of a message
        between = _more(_rendered(loaded, [part, part]), text)
    own = getattr(hf, f"{kind}_token", None)
    known = sorted((token for token in hf.tokenizer.get_added_vocab() if token in between), key=len)
    tokens = [str(own) if own is not None else "", *reversed(known), between.strip()]
    return [
        Written(token, *between.split(token, 1))
        for token in dict.fromkeys(tokens)
        if token and between.count(token) == 1
    ]


def why_refused(loaded: LoadedProcessor, error: Exception) -> str:
    """Say why a template does not render a media part; raises what is no fault of the template's."""
    if isinstance(error, ProcessorError):
        raise error
    try:
        alone = _SENTINEL in _rendered(loaded, _SENTINEL)
    except Exception:  # templates raise whatever their expressions raise
        alone = False
    return f"its chat template refuses it: {'it takes text alone' if alone else said(error)}"


def _rendered(loaded: LoadedProcessor, content: list[dict[str, str]] | str) -> str:
    template = loaded.chat_template
    return str(
        loaded.hf.apply_chat_template([{"role": "user", "content": content}], chat_template=template, tokenize=False)
    )


def _more(without: str, text: str) -> str:
    """What stands in a text beside all of another one."""
    start = _shared(without, text)
    end = _shared(without[start:][::-1], text[start:][::-1])
    return text[start : len(text) - end] if start + end == len(without) else ""


def _shared(left: str, right: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
