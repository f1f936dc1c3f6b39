"""`vlm-prep doctor`: what vlm-prep makes of a processor, before a run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any

from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.errors import ExactnessError, InputError
from vlm_prep.core.fields import IsPath
from vlm_prep.core.processor_record import FAMILY_FROM
from vlm_prep.core.settings import LengthConfig, MediaCheck, PayloadConfig, ProofConfig, TokenizeConfig
from vlm_prep.processors.audio_limit import audio_limit
from vlm_prep.processors.left_out import center_crop

_POSITIONS = {
    "mrope": "mRoPE",
    "plain": "plain",
    "own": "the model's own: `pack` asks its function, see model",
    "unknown": "plain in packs; the model is not in transformers, so check that it takes them",
}


@flags.command
def command(
    processor: flags.Processor,
    config: Annotated[TokenizeConfig, flags.Without(LengthConfig, PayloadConfig, MediaCheck, ProofConfig)],
    model: Annotated[
        str | None,
        IsPath(only_existing=True),
        Doc("The model's folder or config.json (no weights). [default: config.json beside the processor]"),
    ] = None,
    certify: Annotated[
        bool,
        Doc(
            "Compare what a tiny random model of the same kinds of layers computes on the processor's own rows, on "
            "padded batches and on packs, in each form of attention (seconds to a minute)."
        ),
    ] = False,
    as_json: flags.AsJson = False,
) -> None:
    """Say which family a processor is, how its tokens are counted, and what its chat template supports."""
    from vlm_prep.core.errors import ProcessorError, VlmPrepError
    from vlm_prep.processors.families.table import adapter_for
    from vlm_prep.processors.fault_words import said
    from vlm_prep.processors.load import load_processor
    from vlm_prep.processors.model_config import config_of, read_config
    from vlm_prep.processors.model_positions import positions_of
    from vlm_prep.report.certificate_text import certificate_lines
    from vlm_prep.tokenize.encoder import SampleEncoder

    loaded = load_processor(processor, config.processor)
    try:
        encoder = SampleEncoder(adapter_for(loaded), config)
        found = _findings(encoder)
    except (VlmPrepError, MemoryError):
        raise
    except Exception as error:  # whatever its tokenizer or template raises: this command is there to say so
        raise ProcessorError(
            f"{processor}: {type(loaded.hf).__name__} is not understood: {said(error)}",
            "please report it with the processor's name",
        ) from error
    data = read_config(model) if model is not None else loaded.model
    found |= _model_findings(data, type(loaded.hf))
    if encoder.adapter.positions in ("plain", "unknown") and (config_of_model := config_of(data) if data else None):
        # a model may borrow the processor of another, whose positions say nothing of its own
        found["positions"] = _POSITIONS[positions_of(type(config_of_model))]
    certificate = _certify(encoder, data) if certify else None
    if certificate is not None:
        found["certificate"] = certificate.to_json()
    if as_json:
        options.show_json(found)
        return
    for line in (*loaded.notes, *encoder.adapter.notes):
        terminal.echo(f"note: {line}", err=True)
    certificate_json = found.pop("certificate", None)
    for name, value in found.items():
        terminal.echo(f"{name:<20} {_shown(value)}")
    if certificate is not None and certificate_json is not None:
        for line in certificate_lines(certificate):
            terminal.echo(line)
        if not certificate.passed:
            raise ExactnessError(
                f"{certificate.model}: the certificate did not pass",
                "do not train it in the forms that differ; see docs/training.md",
            )


def _certify(encoder: Any, data: dict[str, Any] | None) -> Any:
    from vlm_prep.certify.certificate import certify_processor
    from vlm_prep.processors.model_config import config_of

    config = config_of(data) if data is not None else None
    if data is not None and config is None:
        raise InputError(
            f"transformers has no model {data['model_type']}, so there is nothing to certify with",
            "compare a step of your model, padded and packed, by hand",
        )
    return certify_processor(encoder, config)


def _model_findings(data: dict[str, Any] | None, processor: type) -> dict[str, Any]:
    """What the layers of the model need of packs, in words."""
    from vlm_prep.processors.backbone import describe_backbone
    from vlm_prep.processors.model_config import models_of
    from vlm_prep.report.certificate_text import layers_text, packs_text

    backbone = describe_backbone(data, models_of(processor))
    return {"model": layers_text(backbone), "packs": packs_text(backbone, config_known=data is not None)}


_REASONING = {
    "kept": "rendered in every turn",
    "dropped from earlier turns": "rewritten: dropped from earlier turns (--rewritten-history, or --train-on last)",
    "ignored": "ignored by the template: such rows are rejected",
}


def _findings(encoder: Any) -> dict[str, Any]:
    adapter = encoder.adapter
    findings = encoder.template.findings
    video = getattr(adapter.hf, "video_processor", None)
    stored = [tensor.name for tensor in adapter.geometry]
    sampling = "every frame is kept (give --fps)"
    if video is not None and getattr(video, "do_sample_frames", False):
        sampling = f"fps {video.fps}, {getattr(video, 'min_frames', '-')} to {getattr(video, 'max_frames', '-')} frames"
    return {
        "processor": adapter.loaded.identity["class"],
        "family": adapter.family,
        "family from": adapter.loaded.identity.get(FAMILY_FROM, "vlm-prep"),
        "level": adapter.level,
        "media": list(adapter.kinds),
        "stored per sample": ["input_ids", "labels", *stored, "media", "conversation"],
        "positions": _POSITIONS[adapter.positions],
        "text by": encoder.text.implementation,
        "assistant header": findings.header or "none: turns are found by their texts",
        "turn end": findings.turn_end or "none: the end of a turn cannot be trained",
        "generation mark": "yes" if findings.generation else "no",
        "prefix stable": "yes" if findings.prefix_stable else "no: a turn is written differently once others follow",
        "trims content": "yes: blanks at the edges of texts are lost" if findings.trims else "no",
        "tool schemas": "rendered" if findings.tools else "ignored by the template: written as text (--tool-text)",
        "tool calls": "rendered" if findings.tool_calls else "ignored by the template: written as text (--tool-text)",
        "reasoning": _REASONING[findings.reasoning_of_earlier_turns],
        "developer role": "rendered" if findings.developer else "unknown to the template: written as a system turn",
        "video sampling": sampling if video is not None else "no video",
        "pictures": _pictures(adapter),
        "longest audio": _longest_audio(adapter),
        "audio in video": "--audio-in-video" if adapter.interleaves_sound else "no",
        "missing": _missing(adapter) or "nothing: all that its media need is installed",
        "control tokens": list(encoder.control.tokens),
        "also in calls": list(encoder.control.call_tokens[len(encoder.control.tokens) :]) or "no others",
        "transformers": adapter.loaded.identity["transformers"],
    }


_NEEDED = {"image": ("PIL",), "video": ("av",), "audio": ("soundfile", "scipy")}


def _pictures(adapter: Any) -> str:
    if "image" not in adapter.kinds:
        return "no pictures"
    crop = center_crop(adapter)
    return f"cropped to {crop[1]}x{crop[0]}: edges are left out" if crop else "whole"


def _longest_audio(adapter: Any) -> str:
    if "audio" not in adapter.kinds:
        return "no audio"
    limit = audio_limit(adapter).known()
    if limit is None:
        return "10 minutes and more"
    return f"{limit / adapter.sampling_rate:g} s, what is longer is rejected (--overlong-audio)"


def _missing(adapter: Any) -> list[str]:
    """The packages that reading the family's media needs and that are not installed."""
    needed = [name for kind in adapter.kinds for name in _NEEDED[kind]]
    return [name for name in needed if find_spec(name.partition(" ")[0]) is None]


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else repr(value) if "\n" in str(value) else str(value)
