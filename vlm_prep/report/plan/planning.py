"""What a run over a source will cost, from a sample of its rows: for people who choose settings before they start one.

    choose rows ──▶ look at them, for each payload mode and pixel budget ──▶ lengths, packs, disk, time of the whole

Rows are tokenized without a limit of the length; each --max-length is applied to the lengths that were found. A number
of the whole source is an `estimate.Estimate` with its interval; where every row was looked at it is what `tokenize`
and `pack` count, to the last token and byte. Times are never exact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import InputError
from vlm_prep.core.own_process import as_before
from vlm_prep.core.settings import MediaMode, TokenizeConfig
from vlm_prep.engine.local import Limits, local_executor, start_forkserver
from vlm_prep.engine.progress import ProgressBar
from vlm_prep.engine.stage import RunOptions
from vlm_prep.engine.tasks import Assignment, Poison, Task, rows_per_task, split_rows, tasks_of
from vlm_prep.ingest.source import Samples
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.runtime import describe_processor
from vlm_prep.report.plan.estimate import Population, SampleSize, choose_rows
from vlm_prep.report.plan.findings import MODES, Findings, Setting
from vlm_prep.report.plan.survey import Clock, Survey, SurveyJob, merged
from vlm_prep.tokenize.tokenize_run import prepare

LENGTHS = (2048, 4096, 8192, 16384, 32768)
BUDGET_TOKENS = (256, 1024, 4096)
"""Tokens of a picture that the pixel budgets tried by default allow."""
ROWS_PER_ASSIGNMENT = 256
_SETTING = "max_pixels"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What to show numbers for."""

    lengths: Sequence[int] = LENGTHS
    """Values of --max-length and --pack-length."""
    budgets: Sequence[int] | None = None
    """Most pixels of a picture; None tries some below the processor's own, an empty one none."""
    size: SampleSize = SampleSize()  # noqa: RUF009 - frozen


DEFAULT = Choices()


@as_before()
def plan(
    samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions, choices: Choices = DEFAULT
) -> dict[str, Any]:
    """Look at a sample of rows and return what the whole source will be, JSON-ready; `render` shows it.

    Examples:
        >>> choices = vp.Choices(lengths=[900], budgets=())
        >>> run = vp.RunOptions(out=folder, workers=0, progress=False, say=told)
        >>> found = vp.plan(samples, "builtin:qwen2.5-vl-mini", vp.TokenizeConfig(), run, choices)
        >>> found["rows"], found["exact"]
        (8, True)

    All that was measured with a clock is under "time"; the rest is the same in every run.

    Args:
        samples: the source.
        processor: as for `tokenize`.
        config: as for `tokenize`; `media` names the payload mode that is counted in detail, `max_length` is not used.
        options: how to run; `out` is not used.
        choices: what to show numbers for.

    Raises:
        InputError: there are no rows, or a choice makes no sense.
        ProcessorError: the processor does not load.
        ExactnessError: a row differs from the real processor's output.
    """
    config = replace(config, max_length=None, exact_length=None, overlong="drop")
    count = choices.size.of(len(samples))
    survey = SurveyJob(samples, processor, config)
    start_forkserver(survey, options.workers)
    with Clock() as startup:
        job, _ = prepare(samples, processor, config, options)
    adapter = job.encoder.adapter
    own, note = own_budget(adapter)
    budgets = _budgets(choices.budgets, own, note, adapter)
    settings = [
        Setting(max_pixels=budget, media=mode, config=_config_for(config, mode, budget))
        for budget in (None, *budgets)
        for mode in sorted(MODES, key=lambda mode: mode != config.media)
    ]
    population = Population(rows=len(samples), sampled=count)
    surveys = _look(survey, settings, _tasks(population), options)
    found = Findings(population, settings, surveys, choices.lengths, _why_no_packs(adapter))
    modes = list(enumerate(settings[: len(MODES)]))
    return {
        "source": samples.describe(),
        "processor": {"name": processor, "family": adapter.family, "level": adapter.level},
        "rows": population.rows,
        "sampled": population.sampled,
        "exact": population.complete,
        "interval": "95 % of a simple random sample of this size: low to high",
        "media": config.media,
        **found.of_setting(0),
        "unseen_reject": population.count(0).to_json(),
        "disk": {each.media: found.disk(number) for number, each in modes},
        "shared_bytes_seen": {each.media: surveys[number].shared for number, each in modes},
        "rejects_by_media": {each.media: found.rejects(number) for number, each in modes},
        "budgets": {"own": own, "note": note, "tried": [found.of_budget(budget) for budget in budgets]},
        "packs_note": found.packs_note,
        "boxes_seen": 0 if config.boxes is not None else surveys[0].boxes,
        "time": found.times(startup, options.workers or 1),
    }


# ---- settings ----


def own_budget(adapter: Adapter) -> tuple[int | None, str | None]:
    """Return the most pixels of a picture that a processor allows, or None and a line that says why there is none."""
    part = getattr(adapter.hf, "image_processor", None)
    size = getattr(part, "size", None)
    own = size.get("longest_edge") if size is not None else None
    known = _SETTING in getattr(getattr(part, "valid_kwargs", None), "__annotations__", {})
    if "image" not in adapter.kinds or not known or not isinstance(own, int):
        name = type(part).__name__ if part is not None else "the processor"
        return None, f"no pixel budgets: {name} has no setting {_SETTING} for pictures"
    return own, None


def _budgets(asked: Sequence[int] | None, own: int | None, note: str | None, adapter: Adapter) -> list[int]:
    if own is None:
        if asked:
            raise InputError(f"`max_pixels`: {note}", "leave it out")
        return []
    part = adapter.hf.image_processor
    least = int(part.size["shortest_edge"] or 1)
    if asked is None:
        a_token = (int(getattr(part, "patch_size", 14)) * int(getattr(part, "merge_size", 1))) ** 2
        tried = [tokens * a_token for tokens in BUDGET_TOKENS]
        return [budget for budget in tried if least <= budget < own]
    for budget in asked:
        if budget < least:
            raise InputError(f"`max_pixels={budget}`: the processor's least is {least}", "give a larger budget")
    return sorted(set(asked))


def _config_for(config: TokenizeConfig, mode: MediaMode, budget: int | None) -> TokenizeConfig:
    return replace(config, media=mode) if budget is None else replace(config, media=mode, max_pixels=budget)


def _why_no_packs(adapter: Adapter) -> str | None:
    """Return a line that says why there are no packs, None where there are."""
    runtime = describe_processor(adapter)
    if runtime.get("decoder_start_token_id") is not None:
        return f"no packs: {adapter.family} is an encoder-decoder"
    if runtime.get("positions") == "own":
        return "no packs: the model's positions are its own rule (pack --positions plain, if it takes plain ones)"
    return None


# ---- looking ----


def _tasks(population: Population) -> list[Task]:
    """Cut the sample into assignments; all rows as `tokenize` cuts them, so that the shards are its own."""
    if population.complete:
        return split_rows(population.rows, rows_per_task(population.rows))
    return tasks_of(choose_rows(population.rows, population.sampled), ROWS_PER_ASSIGNMENT)


def _look(job: SurveyJob, settings: Sequence[Setting], tasks: Sequence[Task], options: RunOptions) -> list[Survey]:
    """Look at the rows in every setting; return what was seen, in the order of the settings."""
    seen: dict[tuple[int, int], Survey] = {}
    poison: list[Poison] = []

    def found(each: Poison) -> None:
        poison.append(each)
        options.say(f"row {each.row} would be rejected, {each.reason}: {each.message}")

    def done(number: int) -> Callable[[Assignment, Any], None]:
        def keep(assignment: Assignment, survey: Survey) -> None:
            seen[number, assignment.task.index] = survey
            progress(survey.rows, int(survey.lengths.sum()), survey.rejects.total())

        return keep

    limits = Limits(sample_timeout=options.sample_timeout, worker_memory=options.worker_memory)
    rows = len(settings) * sum(len(task.numbers) for task in tasks)
    with tempfile.TemporaryDirectory(prefix="vlm-prep-plan-") as place:
        folder = Path(place)
        executor = local_executor(job, workers=options.workers, limits=limits, scratch=folder / "scratch", found=found)
        with executor, ProgressBar(rows, "plan", show=options.progress) as progress:
            for number, setting in enumerate(settings):
                compare = setting.max_pixels is None
                assignments = [
                    Assignment(
                        task=task.without(poison),
                        folder=folder,
                        method="survey",
                        arguments=(setting.config, compare and task.index == 0),
                    )
                    for task in tasks
                ]
                executor.run(assignments, done(number), _silent)
    return [merged(seen[number, task.index] for task in tasks) for number in range(len(settings))]


def _silent(rows: int, tokens: int, rejects: int) -> None:
    """Rows are counted as they come in."""
