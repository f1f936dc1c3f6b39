"""Which form of attention keeps the documents of a pack apart, for a model and the attention that it runs.

The forms (`Mask`) are ways to say where documents end; an attention implementation reads some and passes over the
others in silence, which trains documents that see each other. So the collater is told what the model runs, and refuses
what that does not read. What each implementation of transformers 5.23 reads (`masking_utils`, integrations/):

    sdpa             4-D masks; or, without a mask and a cache, positions that restart
    eager            positions; or 4-D masks that it adds to its scores (a bool one would add 1, see `is_additive`)
    flex_attention   positions: it takes block masks, which the model builds of them
    flash_attention  cu_seq_lens; it takes no 4-D mask, and reads positions in batches of one pack only

Of a 2-D mask all of them read only which tokens are padding: document ids are no mask to any. A name that is not
transformers' own ("automodel", "own", ...) stands for a trainer's attention, which answers for what it reads.

Layers with narrower masks (sliding, chunked, pictures seen in both directions) need a 4-D mask for each of their kinds,
which `layer_masks` makes where the model's config is known; else, with positions, the model builds them itself. Where
pictures are seen in both directions it does so wrongly for packs, see there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vlm_prep.core.errors import InputError
from vlm_prep.processors.backbone import Backbone

Mask = Literal["sdpa", "document_ids", "varlen", "thd", "positions"]
_FLASH = "flash_attention"
_READS: dict[str, tuple[Mask, ...]] = {
    "sdpa": ("sdpa", "positions"),
    "eager": ("positions", "sdpa"),
    "flex_attention": ("positions",),
    _FLASH: ("varlen",),
}
"""{attention of transformers: the forms that it reads}."""
_UNREAD: dict[Mask, str] = {
    "sdpa": "it takes no 4-D mask",
    "positions": "it finds documents in positions only in batches of one pack",
    "document_ids": "of a 2-D mask it reads which tokens are padding, and documents see each other",
    "varlen": "cu_seq_lens are read by flash attention alone",
    "thd": "these lengths are read by Transformer Engine through NeMo Automodel alone",
}
UNKNOWN = Backbone()


def attention_name(attention: str) -> str:
    """Return the key of an implementation's name: flash attention has several versions and kernels of it."""
    plain = attention.removeprefix("paged|")
    return _FLASH if "flash" in plain and "flex" not in plain else plain


def is_additive(attention: str | None, backbone: Backbone) -> bool:
    """Whether the model adds 4-D masks to its scores: they are float32, 0 where a token may attend."""
    return attention_name(attention or backbone.attention or "sdpa") == "eager"


def problem(
    form: Mask,
    attention: str | None,
    backbone: Backbone,
    *,
    mrope: bool,
    layer_masks: bool = False,
    failed: Mapping[str, str] | None = None,
) -> str | None:
    """Return why a form would not keep documents apart, None if it does.

    Args:
        form: of the batch.
        attention: the model's implementation; None if nobody said: what transformers takes of it by default.
        backbone: what the model needs.
        mrope: whether positions have three axes.
        layer_masks: whether masks can be made for each kind of layer.
        failed: {form: what the certificate of the packs found}, see `failed_forms`.
    """
    if failed and form in failed:
        return failed[form]
    if backbone.unpackable is not None:
        return f"{backbone.name} {backbone.unpackable}"
    runs = attention or backbone.attention or "sdpa"
    name = attention_name(runs)
    told = attention is not None or form not in ("document_ids", "varlen", "thd")
    if told and name in _READS and form not in _READS[name]:
        return f"the model runs {runs} attention: {_UNREAD[form]}"
    if form == "sdpa" and backbone.mask_for_another:
        return f"{backbone.name} makes its mask for sdpa, and its language model runs eager attention, which adds it"
    if form == "positions" and not backbone.reads_positions:
        return f"{backbone.name} makes its masks without looking at positions"
    if form == "varlen" and name == _FLASH and not backbone.hands_lengths_on:
        return f"{backbone.name} runs no flash attention, or does not hand cu_seq_lens on to it"
    if form == "sdpa" and not layer_masks and (backbone.own_masks or backbone.media_blocks):
        kinds = [*backbone.own_masks, *(["pictures seen in both directions"] if backbone.media_blocks else [])]
        return (
            f"one 4-D mask would take the place of the model's own ({', '.join(kinds)}), and its config, of which they "
            "could be made, is not known (model=...)"
        )
    if form in ("sdpa", "document_ids") and backbone.loss_reads_mask:
        return f"{backbone.name} takes the loss where a 2-D attention_mask says, and no other mask beside labels"
    if form == "positions" and backbone.media_blocks:
        return "of positions the model would open pictures to other documents or in the wrong place"
    if form == "positions" and mrope and not backbone.text_axis and backbone is not UNKNOWN:
        return "the model does not find documents in mRoPE positions"
    return None


def failed_forms(certificate: Mapping[str, Any] | None) -> dict[str, str]:
    """Return {form: why} of what a packed store's certificate does not let pass.

    Args:
        certificate: of the manifest, see `certify.store_packs`; None if it has none.
    """
    found: dict[str, str] = {}
    for each in (certificate or {}).get("findings", ()):
        if each["verdict"] in ("different", "failed"):
            gap = f"logits differ by up to {each['logits']:g}, " if each.get("logits") is not None else ""
            found[each["form"]] = (
                f"the store's certificate says so: with {each['attention']}, a tiny {certificate['model']} "  # type: ignore[index]
                f"computes something else on its packs than on their documents alone ({gap}{each['why']})"
            )
    return found


def form_for(
    attention: str | None,
    backbone: Backbone,
    *,
    mrope: bool,
    layer_masks: bool = False,
    failed: Mapping[str, str] | None = None,
) -> Mask:
    """Return the first form that keeps documents apart.

    Raises:
        InputError: there is none.
    """
    runs = attention or backbone.attention or "sdpa"
    tried = _READS.get(attention_name(runs), ("sdpa", "positions", "varlen"))
    for form in tried:
        if problem(form, attention, backbone, mrope=mrope, layer_masks=layer_masks, failed=failed) is None:
            return form
    why = problem(tried[0], attention, backbone, mrope=mrope, layer_masks=layer_masks, failed=failed)
    raise InputError(
        f"no form of attention keeps the documents of a pack apart: {why}",
        "give the collater the model, its config or its folder (model=...), if it does not know it, run the model with "
        "another attention, or train unpacked: the tokenized store itself, with PadCollate",
    )


def check_form(
    form: Mask,
    attention: str | None,
    backbone: Backbone,
    *,
    mrope: bool,
    layer_masks: bool = False,
    failed: Mapping[str, str] | None = None,
) -> None:
    """Refuse a form that would train documents that see each other, and name one that does not.

    Raises:
        InputError: it would.
    """
    found = problem(form, attention, backbone, mrope=mrope, layer_masks=layer_masks, failed=failed)
    if found is not None:
        better = form_for(attention, backbone, mrope=mrope, layer_masks=layer_masks, failed=failed)
        raise InputError(f"mask={form!r} does not keep the documents of a pack apart: {found}", f"use mask={better!r}")
