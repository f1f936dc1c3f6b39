"""What a model needs of packs, and what its certificate found, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlm_prep.core.errors import InputError
from vlm_prep.processors.backbone import Backbone
from vlm_prep.stream.forms import form_for

if TYPE_CHECKING:
    # it imports a model's library, which only a certificate needs
    from vlm_prep.certify.certificate import Certificate


def layers_text(backbone: Backbone) -> str:
    """Say which model it is and of what kinds its layers are."""
    if not backbone.models:
        return "not known: give its config.json (--model)"
    if not backbone.known:
        return f"{backbone.name}, by the processor alone: give its config.json (--model) for what its layers need"
    kinds = ", ".join(f"{count} {kind}" for kind, count in backbone.layers.items())
    turns = (
        f"; a row of more than {backbone.batch_turns_at} tokens changes how the shorter ones of its batch are read"
        if backbone.batch_turns_at is not None
        else ""
    )
    return f"{backbone.name}: {kinds}{turns}"


def packs_text(backbone: Backbone, *, config_known: bool) -> str:
    """Say in which form packs keep documents apart, and what else these need."""
    if backbone.unpackable is not None:
        return f"none: {backbone.name} {backbone.unpackable}"
    forms = []
    for attention in (backbone.attention or "sdpa", "flash_attention_2"):
        try:
            form: str = form_for(attention, backbone, mrope=False, layer_masks=config_known)
        except InputError:
            form = "none without the model's config.json"
        forms.append(f"{attention}: {form}")
    text = ", ".join(forms)
    if backbone.unpackable_sound is not None:
        text += f"; none of sound: it {backbone.unpackable_sound}"
    if backbone.stacks_videos:
        text += "; videos of as many frames alone"
    if backbone.reads:
        kinds = "layers that carry state" if backbone.known else "layers that carry state in some of these models"
        text += f"; with {', '.join(backbone.reads)} for {kinds}, which need their kernels"
    return text


def certificate_lines(certificate: Certificate) -> Iterator[str]:
    """Yield the lines of a certificate."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in certificate.layers.items())
    yield f"certificate: {certificate.model}, tiny ({kinds}), {len(certificate.rows)} conversations"
    for each in certificate.findings:
        numbers = f"logits {each.logits:.1e}, loss {each.loss:.1e}" if each.logits is not None else ""
        yield f"  {each.form:<13} {each.attention:<18} {each.verdict:<10} {numbers}{each.why}"
    for note in certificate.notes:
        yield f"  note: {note}"
    if certificate.not_compared:
        yield f"  not compared: {', '.join(certificate.not_compared)}"
    yield f"  {'passed' if certificate.passed else 'NOT PASSED'}"
