"""What of a row is trained, as text for a terminal: trained tokens coloured, media by their files' names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import typer

from vlm_prep.core.records import Encoded, Rejected
from vlm_prep.core.visible import visible
from vlm_prep.report.token_runs import IGNORE, Run, last_part, media_name, token_runs
from vlm_prep.shards.schema import LOSS_WEIGHTS


def runs_of(encoded: Encoded, tokenizer: Any, media_ids: Collection[int]) -> list[Run]:
    """Return the runs of a row that was just encoded."""
    media = [(each["kind"], last_part(each["files"][0]["uri"])) for each in encoded.media]
    ids, labels = encoded.input_ids, encoded.labels
    return token_runs(ids, labels, tokenizer, media_ids, weights=encoded.loss_weights, media=media)


def runs_of_row(row: Mapping[str, Any], tokenizer: Any, media_ids: Collection[int]) -> list[Run]:
    """Return the runs of a row of a tokenized store, or of a document of a pack."""
    media = [(each["kind"], media_name(each)) for each in row["media"]]
    ids, labels = row["input_ids"], row["labels"]
    return token_runs(ids, labels, tokenizer, media_ids, weights=row.get(LOSS_WEIGHTS), media=media)


def render(encoded: Encoded, tokenizer: Any, media_ids: Collection[int], *, colour: bool) -> str:
    """Return a sample's text with what is trained in green, or between ⟦ and ⟧ without colour."""
    trained = int((encoded.labels != IGNORE).sum())
    head = f"{visible(encoded.sample_id)}: {len(encoded.input_ids)} tokens, {trained} trained\n"
    return head + coloured(runs_of(encoded, tokenizer, media_ids), colour=colour)


def coloured(runs: Sequence[Run], *, colour: bool) -> str:
    """Return the text of runs, see `render`; weights other than 1 stand behind what they weigh."""
    pieces = []
    for run in runs:
        text = visible(run.written, lines=True)
        weight = f"(x{run.weight:g})" if run.weight != 1 else ""
        if colour:
            pieces.append(typer.style(text, fg="green", bold=True) if run.trained else typer.style(text, dim=True))
        else:
            text = text.replace("⟦", "\\u27e6").replace("⟧", "\\u27e7")  # what is shown as a mark is one
            pieces.append(f"⟦{text}⟧" if run.trained else text)
        pieces.append(weight)
    return "".join(pieces)


def to_json(result: Encoded | Rejected, tokenizer: Any, media_ids: Collection[int]) -> dict[str, Any]:
    """Return a row as JSON-ready data: its runs of text with whether they are trained, or why it is rejected."""
    if isinstance(result, Rejected):
        return {"sample_id": result.sample_id, "rejected": result.reason, "message": result.message}
    return {
        "sample_id": result.sample_id,
        "tokens": len(result.input_ids),
        "trained": int((result.labels != IGNORE).sum()),
        "runs": runs_json(runs_of(result, tokenizer, media_ids)),
    }


def runs_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return runs as JSON-ready data."""
    return [
        {"text": run.written, "trained": run.trained, **({"weight": run.weight} if run.weight != 1 else {})}
        for run in runs
    ]
