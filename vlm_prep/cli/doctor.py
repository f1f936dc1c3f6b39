"""`vlm-prep doctor`: what vlm-prep makes of a processor, before a run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.settings import LengthConfig, MediaCheck, PayloadConfig, ProofConfig, TokenizeConfig
from vlm_prep.processors.audio_limit import audio_limit

_POSITIONS = {
    "mrope": "mRoPE",
    "plain": "plain",
    "own": "the model's own rule, which `pack` does not know: stream unpacked",
    "unknown": "plain in packs; the model is not in transformers, so check that it takes them",
}


@flags.command
def command(
    processor: flags.Processor,
    config: Annotated[
        TokenizeConfig, flags.Without(LengthConfig, PayloadConfig, MediaCheck, ProofConfig)
    ],
    as_json: flags.AsJson = False,
) -> None:
    """Say which family a processor is, how its tokens are counted, and what its chat template supports."""
    from vlm_prep.core.errors import ProcessorError, VlmPrepError
    from vlm_prep.processors.expansion import said
    from vlm_prep.processors.families.table import adapter_for
    from vlm_prep.processors.load import load_processor
    from vlm_prep.tokenize.encoder import SampleEncoder

    loaded = load_processor(processor, config.processor)
    try:
        encoder = SampleEncoder(adapter_for(loaded), config)
        found = _facts(encoder)
    except (VlmPrepError, MemoryError):
        raise
    except Exception as error:  # whatever its tokenizer or template raises: this command is there to say so
        raise ProcessorError(
            f"{processor}: {type(loaded.hf).__name__} is not understood: {type(error).__name__}: {said(error)}",
            "please report it with the processor's name",
        ) from error
    if as_json:
        options.show_json(found)
        return
    for line in (*loaded.notes, *encoder.adapter.notes):
        terminal.echo(f"note: {line}", err=True)
    for name, value in found.items():
        terminal.echo(f"{name:<20} {_shown(value)}")


_REASONING = {
    "kept": "rendered in every turn",
    "dropped from earlier turns": "rewritten: dropped from earlier turns (--rewritten-history, or --train-on last)",
    "ignored": "ignored by the template: such rows are rejected",
}


def _facts(encoder: Any) -> dict[str, Any]:
    adapter = encoder.adapter
    facts = encoder.template.facts
    video = getattr(adapter.hf, "video_processor", None)
    stored = [tensor.name for tensor in adapter.geometry]
    sampling = "every frame is kept (give --fps)"
    if video is not None and video.do_sample_frames:
        sampling = f"fps {video.fps}, {getattr(video, 'min_frames', '-')} to {getattr(video, 'max_frames', '-')} frames"
    return {
        "processor": adapter.loaded.identity["class"],
        "family": adapter.family,
        "level": adapter.level,
        "media": list(adapter.kinds),
        "stored per sample": ["input_ids", "labels", *stored, "media", "conversation"],
        "positions": _POSITIONS[adapter.positions],
        "text by": encoder.text.implementation,
        "assistant header": facts.header or "none: turns are found by their texts",
        "turn end": facts.turn_end or "none: the end of a turn cannot be trained",
        "generation mark": "yes" if facts.generation else "no",
        "prefix stable": "yes" if facts.prefix_stable else "no: a turn is written differently once others follow",
        "trims content": "yes: blanks at the edges of texts are lost" if facts.trims else "no",
        "tool schemas": "rendered" if facts.tools else "ignored by the template: written as text (--tool-text)",
        "tool calls": "rendered" if facts.tool_calls else "ignored by the template: written as text (--tool-text)",
        "reasoning": _REASONING[facts.reasoning_of_earlier_turns],
        "developer role": "rendered" if facts.developer else "unknown to the template: written as a system turn",
        "video sampling": sampling if video is not None else "no video",
        "longest audio": _longest_audio(adapter),
        "audio in video": "--audio-in-video" if adapter.interleaves_sound else "no",
        "missing": _missing(adapter) or "nothing: all that its media need is installed",
        "control tokens": list(encoder.control_tokens),
        "transformers": adapter.loaded.identity["transformers"],
    }


_NEEDED = {"image": ("PIL",), "video": ("av",), "audio": ("soundfile", "scipy")}


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
