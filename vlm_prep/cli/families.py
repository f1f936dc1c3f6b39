"""`vlm-prep families`: what becomes of each processor class of transformers."""

from __future__ import annotations

from dataclasses import asdict

from vlm_prep.cli import flags, options, terminal


@flags.command
def command(as_json: flags.AsJson = False) -> None:
    """List the processor classes of transformers: media, how tokens are counted, and how their rows can be packed."""
    from vlm_prep.processors.families.checked import TRANSFORMERS, checked, markdown

    packs = {name: _packs(name, found.family) for name, found in checked().items() if not found.why}
    if as_json:
        rows = {name: {**asdict(found), "packs": packs.get(name)} for name, found in checked().items()}
        options.show_json({"transformers": TRANSFORMERS, "processors": rows})
        return
    checked_with = f"Checked with transformers {TRANSFORMERS}"
    terminal.echo(f"{checked_with}: rows are equal to the processor's own, tensor by tensor.\n")
    for line in markdown(packs):
        terminal.echo(line)


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
    forms: dict[str, None] = {}
    for attention in ("sdpa", "flash_attention_2") if positions in ("mrope", "plain") else ():
        # masks for each kind of layer are made of the model's config, where it is known
        for known, said in ((False, ""), (True, " with the model's config")):
            try:
                form = form_for(attention, backbone, mrope=mrope, layer_masks=known)
            except InputError:
                continue
            forms[form + said] = None
            break
    return ", ".join(forms) or "unpacked"
