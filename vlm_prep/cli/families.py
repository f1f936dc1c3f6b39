"""`vlm-prep families`: what becomes of each processor class of transformers."""

from __future__ import annotations

from typing import Any

import typer

from vlm_prep.cli import flags, options

_COLUMNS = ("processor", "media", "family", "rows it refuses", "packs")


@flags.command
def command(as_json: flags.AsJson = False) -> None:
    """List the processor classes of transformers: media, how tokens are counted, and how their rows can be packed."""
    from vlm_prep.processors.families.checked import TRANSFORMERS, checked

    table = [{"processor": name, **_facts(name, found)} for name, found in sorted(checked().items())]
    if as_json:
        options.show_json({"transformers": TRANSFORMERS, "processors": table})
        return
    typer.echo(f"Checked with transformers {TRANSFORMERS}: rows are equal to the processor's own, tensor by tensor.\n")
    for line in markdown(table):
        typer.echo(line)


def markdown(table: list[dict[str, Any]]) -> list[str]:
    """Return a table of `_facts` in Markdown, as docs/families.md holds it."""
    taken = [row for row in table if not row["why"]]
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    lines += [f"| {' | '.join(row[column] for column in _COLUMNS)} |" for row in taken]
    lines += ["", "| not taken | why |", "|---|---|"]
    return lines + [f"| {row['processor']} | {row['why']} |" for row in table if row["why"]]


def _facts(name: str, found: Any) -> dict[str, str]:
    levels = ", ".join(f"{kind} {level}" for kind, level in found.levels.items())
    packs = "" if found.why else _packs(name, found.family)
    refused = ", ".join(found.rejects)
    return {"media": levels, "family": found.family, "rows it refuses": refused, "packs": packs, "why": found.why}


def _packs(name: str, family: str) -> str:
    """The forms of attention that keep documents apart, as the processor's models are known to need."""
    from vlm_prep.core.errors import InputError
    from vlm_prep.processors.backbone import describe_backbone
    from vlm_prep.processors.model_config import models_of
    from vlm_prep.processors.model_positions import positions_of
    from vlm_prep.processors.torchvision_cpu import ensure_torchvision
    from vlm_prep.stream.forms import form_for

    ensure_torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    cls = getattr(transformers, name)
    positions = "mrope" if "qwen" in family else positions_of(cls)
    backbone, mrope = describe_backbone(None, models_of(cls)), positions == "mrope"
    try:
        forms = [form_for(attention, backbone, mrope=mrope) for attention in ("sdpa", "flash_attention_2")]
    except InputError:
        return "unpacked"
    return ", ".join(dict.fromkeys(forms)) if positions in ("mrope", "plain") else "unpacked"
