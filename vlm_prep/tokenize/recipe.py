"""What tokenizing needs beside rows, made once and inherited by all workers: processor, tables, template, comparison.

The forkserver makes it before it forks the first worker (`before_fork.py`), so that a worker is ready milliseconds
after it is started, and what it is made of lies in memory once. A worker of another run, or of a forkserver that could
not make it, makes its own.
"""

from __future__ import annotations

import base64
import gc
import os
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.own_process import one_thread
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.lean_imports import no_garbage
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.processors.payload.encodings import describe_payload
from vlm_prep.processors.payload.maker import PayloadMaker
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.runtime import describe_processor
from vlm_prep.processors.template_date import asks_for_the_day
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.verify.real_processor import Oracle

VARIABLE = "VLM_PREP_RECIPE"
"""The environment variable by which a recipe reaches the forkserver."""
FEW_ROWS = 256
"""Rows for which gigatoken's tables (0.5 s for a large vocabulary) would take longer than they save."""
_MOST_CHARACTERS = 100_000
"""Of it: the kernel takes 131,072."""
_THREADS = Path("/proc/self/task")


@dataclass(frozen=True, kw_only=True)
class ProcessorFindings:
    """What a run must know of its processor."""

    identity: dict[str, str]
    notes: tuple[str, ...]
    """Lines to tell the user once."""
    runtime: ProcessorRecord
    """`processor` of the store's manifest."""
    every_frame: str | None
    """The class of its video processor if that samples no frames by itself."""
    template_date: str | None = None
    """The day that its chat template writes; None where it writes none."""


def findings_of(encoder: SampleEncoder, payload: dict[str, Any] | None) -> ProcessorFindings:
    """Return what a run must know of its processor, see `Made`.

    Raises:
        ProcessorError: a setting is about what the processor does not take.
    """
    adapter, overlong = encoder.adapter, encoder.config.overlong_audio
    if overlong != "reject" and "audio" not in adapter.kinds:
        raise ProcessorError(
            f"`overlong_audio={overlong}` changes nothing: {adapter.loaded.name} takes no sound", "leave it out"
        )
    video = getattr(adapter.hf, "video_processor", None)
    return ProcessorFindings(
        identity=adapter.loaded.identity,
        notes=tuple(note for note in (*adapter.loaded.notes, encoder.text.note, _end_note(encoder)) if note),
        runtime={**describe_processor(adapter), "payload": payload},
        every_frame=type(video).__name__ if video is not None and not video.do_sample_frames else None,
        template_date=encoder.config.template_date if asks_for_the_day(encoder.template.source) else None,
    )


def _end_note(encoder: SampleEncoder) -> str | None:
    """What to tell of a template whose turns do not end in a token."""
    findings = encoder.template.findings
    if findings.end_is_token or encoder.adapter.prompts_are_tokens or encoder.config.train_end == "none":
        return None
    if not findings.turn_end:
        return (
            "the chat template writes nothing behind an answer that could end it, so no end is trained: a model "
            "trained on this does not learn to stop"
        )
    return (
        f"the chat template ends answers with plain text, {findings.turn_end!r}, which is trained; generation must be "
        "told to stop at it, since it is no token of the vocabulary"
    )


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a recipe makes."""

    encoder: SampleEncoder
    maker: PayloadMaker | None
    """None unless media become tensors."""
    payload: dict[str, Any] | None
    """How media become tensors, see `maker.make`."""
    oracle: Oracle


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A processor and its settings."""

    processor: str
    config: TokenizeConfig
    fast: bool
    """Whether gigatoken may be used."""
    payload: dict[str, Any] | None = None
    """As it was found before; None finds it."""

    def make(self, loaded: LoadedProcessor | None = None) -> Made:
        """Make everything, with torch at one thread: the parallelism is in the processes.

        Args:
            loaded: the processor, if it is loaded.

        Raises:
            ProcessorError: it does not load or has no family.
        """
        with no_garbage():
            loaded = loaded or load_processor(self.processor, self.config.processor)
            one_thread()
            encoder = SampleEncoder(adapter_for(loaded), self.config, fast=self.fast)
            adapter, maker, payload = encoder.adapter, None, self.payload
            if self.config.media == "pixels":
                pixels = PixelMaker(describe_processor(adapter), whole=adapter.hf)
                payload = payload or describe_payload(pixels, adapter.kinds, self.config.audio)
                maker = PayloadMaker(pixels, payload, [tensor.name for tensor in adapter.geometry])
            return Made(encoder=encoder, maker=maker, payload=payload, oracle=Oracle(encoder, self.config, payload))

    def to_text(self) -> str | None:
        """Return the recipe as the value of an environment variable; None where it is too long for one."""
        text = base64.b85encode(zlib.compress(pickle.dumps(self))).decode()
        return text if len(text) < _MOST_CHARACTERS else None


@dataclass
class _Ready:
    """What this process, or the forkserver it was forked from, has made."""

    recipe: Recipe | None = None
    made: Made | None = None


_ready = _Ready()


def make_ready(text: str) -> None:
    """Make what a recipe's text asks for, for the processes that will be forked from this one.

    Where that leaves a second thread behind it is thrown away: a lock that the thread holds at a fork would stay locked
    in the child for ever.
    """
    recipe: Recipe = pickle.loads(zlib.decompress(base64.b85decode(text)))
    made = recipe.make()
    if _THREADS.is_dir() and len(os.listdir(_THREADS)) > 1:
        return
    _ready.recipe, _ready.made = recipe, made
    gc.freeze()  # or each worker's collector would walk, and so copy, all of it


def made_for(recipe: Recipe, loaded: LoadedProcessor | None = None) -> Made:
    """Return what was made for this recipe before this process was forked, else make it, see `Recipe.make`."""
    if loaded is None and _ready.made is not None and _is_for(recipe):
        return _ready.made
    return recipe.make(loaded)


def _is_for(recipe: Recipe) -> bool:
    ready = _ready.recipe
    if ready is None or (ready.processor, ready.config, ready.fast) != (recipe.processor, recipe.config, recipe.fast):
        return False
    return recipe.payload in (ready.payload, _ready.made.payload if _ready.made else None)
