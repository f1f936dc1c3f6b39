"""The comparison: what a model computes on the processor's own rows, on padded batches and on packs, form by form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from vlm_prep.certify.kernels import FLASH
from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.errors import InputError, ProcessorError, StoreError
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.processors.fault_words import said
from vlm_prep.stream.collate import PackedCollate, PadCollate
from vlm_prep.stream.dummy import DummyMedia
from vlm_prep.stream.forms import Mask

TOLERANCE = 1e-5
"""Of a logit or a loss, relative to the largest where that is above 1: what float32 leaves open."""
_ATTENTION: Mapping[Mask, tuple[str, ...]] = {
    "sdpa": ("sdpa",),
    "positions": ("sdpa",),
    "varlen": (FLASH,),
    "document_ids": ("sdpa",),
    "thd": ("sdpa",),
}
"""The implementations that a form is tried with; the last two are no mask to any of transformers'. "sdpa" stands for
what the model runs where nobody chooses, which is eager attention for some."""
_NOT_FOR_MODELS = ("seq_lens", "seq_lens_padded", "qkv_format")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of one form with one attention; JSON-ready."""

    form: str
    """"padded", or a `stream.forms.Mask`."""
    attention: str
    """"flash_attention_2" stands for all of its versions, by a reference on the CPU."""
    verdict: str
    """"equal", "different", "refused" by the collater or by the model, or "failed": it could not be tried."""
    logits: float | None = None
    """Largest difference to the rows alone, relative to the largest logit where that is above 1."""
    loss: float | None = None
    """Difference of the mean loss."""
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True)
class Alone:
    """What the model computes on one row at a time."""

    logits: Mapping[str, Any]
    """{sample_id: (tokens, vocabulary)}"""
    losses: Mapping[str, float]
    """Summed over the row's trained tokens."""
    trained: Mapping[str, int]


Rows = Mapping[str, Mapping[str, Any]]
"""{sample_id: the row as the model takes it, labels included, batch of 1}"""


def run_alone(model: TinyModel, rows: Rows, attention: str) -> tuple[Alone, dict[str, str]]:
    """Return what the model computes on each row by itself, and why it does not take a row as the processor makes it.

    Raises:
        ProcessorError: it takes none, or not even text.
    """
    made, failed = {}, {}
    for name, row in rows.items():
        try:
            made[name] = model.run(row, attention)
        except Exception as error:  # models raise whatever they raise on a row that they do not take
            failed[name] = said(error)
    if failed and (not made or "text" in failed):
        raise ProcessorError(
            f"{type(model.model).__name__} of this config does not take what the processor makes: "
            f"{next(iter(failed.values()))}",
            "give the config.json of the model that the processor belongs to: `model=FOLDER`",
        )
    trained = {name: int((rows[name]["labels"][:, _first(rows[name]) :] >= 0).sum()) for name in made}
    losses = {name: float(made[name].loss) * trained[name] if trained[name] else 0.0 for name in made}
    return Alone({name: each.logits[0] for name, each in made.items()}, losses, trained), failed


def compare_padded(model: TinyModel, alone: Alone, items: Sequence[Mapping[str, Any]], options: Any) -> Finding:
    """Compare rows in one padded batch with each alone."""
    batch = PadCollate(**{**options, "shift": False, "counts": False})([dict(item) for item in items])
    names = [item["sample_id"] for item in items]
    places = [(row, 0, len(alone.logits[name])) for row, name in enumerate(names)]
    return _compared("padded", "sdpa", model, alone, batch, list(zip(names, places, strict=True)))


def compare_stand_in(
    model: TinyModel, alone: Alone, items: Sequence[Mapping[str, Any]], runtime: ProcessorRecord, options: Any
) -> Finding:
    """Compare rows of text alone, in a batch with a stand-in media, with each alone."""
    try:
        dummy = DummyMedia.of(runtime)
    except StoreError as error:
        return Finding(form="stand-in", attention="sdpa", verdict="refused", why=error.message)
    rows = [item for item in items if not any(item.get(f"n_{kind}s") for kind in ("image", "video", "audio"))]
    collate = PadCollate(**{**options, "shift": False, "counts": False, "dummy": dummy})
    places = [(row["sample_id"], (number, 0, len(row["input_ids"]))) for number, row in enumerate(rows)]
    return _compared("stand-in", "sdpa", model, alone, collate([dict(row) for row in rows]), places)


def compare_packed(
    model: TinyModel,
    alone: Mapping[str, Alone],
    batches: Sequence[Sequence[Mapping[str, Any]]],
    config: Mapping[str, Any],
    options: Any,
) -> list[Finding]:
    """Compare packs, in all forms and with the attentions that read them, with their documents alone.

    Args:
        model: of the family.
        alone: what the rows became alone, by attention.
        batches: of packs.
        config: the tiny model's, as JSON.
        options: of the collater.
    """
    findings = []
    for form in get_args(Mask):
        for attention in _ATTENTION[form]:
            try:
                runs = attention if attention != "sdpa" else model.attention
                given = {**options, "mask": form, "attention": runs, "model": config, "counts": False}
                collate = PackedCollate(**given)
            except InputError as error:
                findings.append(Finding(form=form, attention=attention, verdict="refused", why=error.message))
                continue
            if attention not in alone:
                why = "the model does not run this attention"
                findings.append(Finding(form=form, attention=attention, verdict="refused", why=why))
                continue
            found = [_packed(form, attention, model, alone[attention], batch, collate) for batch in batches]
            findings.append(max(found, key=badness))
    return findings


def badness(finding: Finding) -> tuple[int, float]:
    """Order findings of one form: the worst last."""
    return ("refused", "equal", "failed", "different").index(finding.verdict), finding.logits or 0.0


def _packed(
    form: str, attention: str, model: TinyModel, alone: Alone, packs: Sequence[Any], collate: PackedCollate
) -> Finding:
    batch = collate([dict(pack) for pack in packs])
    places = []
    for row, pack in enumerate(packs):
        ends = np.cumsum(np.asarray(pack["seq_lens"])).tolist()
        for name, start, end in zip(pack["sample_ids"], [0, *ends], ends, strict=False):
            places.append((name, (row, start, end)))
    return _compared(form, attention, model, alone, batch, places)


def _compared(
    form: str,
    attention: str,
    model: TinyModel,
    alone: Alone,
    batch: Mapping[str, Any],
    places: Sequence[tuple[str, tuple[int, int, int]]],
) -> Finding:
    try:
        made = model.run({name: value for name, value in batch.items() if name not in _NOT_FOR_MODELS}, attention)
    except Exception as error:  # models raise whatever they raise on a batch that they do not take
        message = str(error).strip().split("\n")[0][:200]
        refused = "packed sequences apart" in message
        why = message if refused else said(error)
        return Finding(form=form, attention=attention, verdict="refused" if refused else "failed", why=why)
    worst, where = 0.0, ""
    for name, (row, start, stop) in places:
        expected = alone.logits[name]
        difference = (made.logits[row, start:stop] - expected).abs().max()
        relative = float(difference / expected.abs().max().clamp(min=1.0))
        worst, where = max((worst, where), (relative, name))
    trained = sum(alone.trained[name] for name, _ in places)
    mean = sum(alone.losses[name] for name, _ in places) / max(1, trained)
    loss = abs(float(made.loss) - mean) / max(1.0, abs(mean)) if trained else 0.0
    equal = worst <= TOLERANCE and loss <= TOLERANCE
    verdict, why = ("equal", "") if equal else ("different", f"most in {where!r}")
    return Finding(form=form, attention=attention, verdict=verdict, logits=worst, loss=loss, why=why)


def _first(row: Mapping[str, Any]) -> int:
    """Decoders are trained on every label; other models shift inside, past the first."""
    return 0 if "decoder_input_ids" in row else 1
