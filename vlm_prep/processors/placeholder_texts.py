"""What a chat template writes for a media, found by rendering one between two texts."""

from __future__ import annotations

from vlm_prep.core.records import MediaKind
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
    content = [part, {"type": kind}, part]
    text = hf.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=loaded.chat_template, tokenize=False
    )
    pieces = str(text).split(_SENTINEL)
    between = pieces[1] if len(pieces) > 2 else ""
    own = getattr(hf, f"{kind}_token", None)
    known = sorted((token for token in hf.tokenizer.get_added_vocab() if token in between), key=len)
    tokens = [str(own) if own is not None else "", *reversed(known), between.strip()]
    return [
        Written(token, *between.split(token, 1))
        for token in dict.fromkeys(tokens)
        if token and between.count(token) == 1
    ]
