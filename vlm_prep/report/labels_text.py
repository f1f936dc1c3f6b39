"""What of a sample is trained, as text for a terminal: trained tokens coloured, media runs folded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any

import typer

from vlm_prep.core.records import Encoded, Rejected
from vlm_prep.core.visible import visible

IGNORE = -100
Run = tuple[str, bool]


def runs(encoded: Encoded, tokenizer: Any, media_ids: Collection[int]) -> Iterator[Run]:
    """Yield (text, trained) for each run of a sample's tokens; a media's tokens are folded into `<token> x n`."""
    tokens = zip(encoded.input_ids.tolist(), (encoded.labels != IGNORE).tolist(), strict=True)

    def alike(pair: tuple[int, bool]) -> tuple[int | None, bool]:
        return (pair[0] if pair[0] in media_ids else None), pair[1]

    for (media, trained), group in groupby(tokens, key=alike):
        ids = [token for token, _ in group]
        text = tokenizer.decode(ids[:1]) + f" x {len(ids)}" if media is not None else tokenizer.decode(ids)
        yield text, trained


def render(encoded: Encoded, tokenizer: Any, media_ids: Collection[int], *, colour: bool) -> str:
    """Return a sample's text with what is trained in green, or between ⟦ and ⟧ without colour."""
    trained = int((encoded.labels != IGNORE).sum())
    pieces = [f"{visible(encoded.sample_id)}: {len(encoded.input_ids)} tokens, {trained} trained\n"]
    for written, is_trained in runs(encoded, tokenizer, media_ids):
        text = visible(written, lines=True)
        if colour:
            pieces.append(typer.style(text, fg="green", bold=True) if is_trained else typer.style(text, dim=True))
        else:
            text = text.replace("⟦", "\\u27e6").replace("⟧", "\\u27e7")  # what is shown as a mark is one
            pieces.append(f"⟦{text}⟧" if is_trained else text)
    return "".join(pieces)


def to_json(result: Encoded | Rejected, tokenizer: Any, media_ids: Collection[int]) -> dict[str, Any]:
    """Return a row as JSON-ready data: its runs of text with whether they are trained, or why it is rejected."""
    if isinstance(result, Rejected):
        return {"sample_id": result.sample_id, "rejected": result.reason, "message": result.message}
    return {
        "sample_id": result.sample_id,
        "tokens": len(result.input_ids),
        "trained": int((result.labels != IGNORE).sum()),
        "runs": [{"text": text, "trained": trained} for text, trained in runs(result, tokenizer, media_ids)],
    }
