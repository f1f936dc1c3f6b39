"""`vlm-prep presets`: well-known datasets that are read by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.fields import Positional


@flags.command
def command(
    name: Annotated[str | None, Positional(), Doc("Of one preset, to see how it is read.")] = None,
    as_json: flags.AsJson = False,
) -> None:
    """List the datasets that are known by name (preset:NAME[=path]) with what they expect, or show how one is read."""
    from vlm_prep.ingest.presets.preset import presets, read_preset

    found = presets() if name is None else {name: read_preset(name)}
    if as_json:
        options.show_json({each: asdict(preset) for each, preset in found.items()})
        return
    for preset in found.values():
        terminal.echo(f"preset:{preset.name}\n    {preset.about}\n    {preset.expects}")
        hubs = [preset.hub, *(said.get("hub") for said in preset.sets.values())]
        if any(hubs):
            terminal.echo(f"    without a path: hf:{', hf:'.join(filter(None, hubs))}")
        if name is not None:
            options.show_json({"options": preset.options, "sets": preset.sets, "mix": preset.mix})
