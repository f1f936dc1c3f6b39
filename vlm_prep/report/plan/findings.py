"""What was seen of sampled rows as numbers of the whole source: rejects, tokens, packs, disk, time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from vlm_prep.core.settings import MediaMode, TokenizeConfig
from vlm_prep.engine.tasks import rows_per_task
from vlm_prep.report.plan.estimate import Estimate, Population, exactly
from vlm_prep.report.plan.survey import Clock, Survey
from vlm_prep.tokenize.tokenize_job import STARTUP_ROWS
from vlm_prep.tokenize.verify.choose import ROWS_PER_KIND, SHAPES_PER_KIND

MODES: tuple[MediaMode, ...] = get_args(MediaMode)
"""All payload modes that there are."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to tokenize the source."""

    max_pixels: int | None
    """The budget that was set; None for the processor's own."""
    media: MediaMode
    config: TokenizeConfig


@dataclass(frozen=True)
class Findings:
    """The numbers of a source, JSON-ready."""

    population: Population
    settings: Sequence[Setting]
    """The modes with the processor's own pixel budget first, then those with each other budget."""
    surveys: Sequence[Survey]
    """What was seen in each setting."""
    lengths: Sequence[int]
    """Values of --max-length."""
    packs_note: str | None
    """Why there are no packs, None where there are."""

    def of_setting(self, number: int) -> dict[str, Any]:
        """Return rows, rejects, tokens and what each length makes of them."""
        survey, total = self.surveys[number], self.population.total
        written = self.population.count(survey.written)
        documents = total(survey.by_row(np.ones(len(survey.documents))))
        each_one = len(survey.documents) == survey.written
        return {
            "written": written.to_json(),
            "documents": (written if each_one else documents).to_json(),
            "rejects": self.rejects(number),
            "tokens": total(survey.by_row(survey.lengths)).to_json(),
            "trained_tokens": total(survey.by_row(survey.trained)).to_json(),
            "lengths": [self._of_length(number, length) for length in self.lengths],
        }

    def of_budget(self, budget: int) -> dict[str, Any]:
        """Return the numbers of a pixel budget."""
        numbers = [number for number, each in enumerate(self.settings) if each.max_pixels == budget]
        return {
            "max_pixels": budget,
            **self.of_setting(numbers[0]),
            "disk": {self.settings[number].media: self.disk(number) for number in numbers},
        }

    def disk(self, number: int) -> dict[str, int]:
        """Return the bytes of the shards."""
        survey = self.surveys[number]
        return self.population.total(survey.by_row(survey.bytes)).to_json()

    def rejects(self, number: int) -> dict[str, dict[str, int]]:
        """Return the rejected rows by reason, as seen in the sample and of the whole source."""
        return {
            reason: {"seen": seen, **self.population.count(seen).to_json()}
            for reason, seen in sorted(self.surveys[number].rejects.items(), key=lambda item: (-item[1], item[0]))
        }

    def _of_length(self, number: int, length: int) -> dict[str, Any]:
        survey = self.surveys[number]
        fits = survey.fitting(length)
        tokens = self.population.total(survey.by_row(survey.lengths)[fits], length)
        found: dict[str, Any] = {
            "max_length": length,
            "too_long": self.population.count(int(np.count_nonzero(~fits))).to_json(),
            "tokens": tokens.to_json(),
            "disk": self._disk_of_fitting(number, length),
        }
        if self.packs_note is None:
            packs, fill, alone = self.population.packs(survey.lengths[fits[survey.documents]], length, tokens)
            found |= {"packs": packs.to_json(), "fill": round(fill, 6), "fill_of_the_sample": round(alone, 6)}
        return found

    def _disk_of_fitting(self, number: int, length: int) -> dict[str, dict[str, int]]:
        budget = self.settings[number].max_pixels
        sizes: dict[str, dict[str, int]] = {}
        for setting, survey in zip(self.settings, self.surveys, strict=True):
            if setting.max_pixels == budget:
                values = survey.by_row(survey.bytes)
                fitting = self.population.total(values[survey.fitting(length)], values.max(initial=0.0))
                # the shards' heads do not shrink with the rows: the upper end holds all of them
                whole = self.population.total(values)
                left_out = 1 - fitting.value / max(1.0, whole.value)
                heads = survey.heads * self.population.rows / self.population.sampled * left_out
                high = fitting.high + heads
                if survey.shared and left_out:  # rows that are left out may hold media that others keep
                    high = max(high, whole.high)
                sizes[setting.media] = replace(fitting, high=high).to_json()
        return sizes

    # times

    def times(self, startup: Clock, workers: int) -> dict[str, Any]:
        """Return what each setting takes on this machine with so many workers."""
        setup = Clock()
        for survey in self.surveys[:1]:
            setup.add(survey.setup)
        tasks = -(-self.population.rows // rows_per_task(self.population.rows))
        at_once = max(1, min(workers, tasks, _cores()))
        begin = startup.wall + (setup.wall / setup.times if setup.times else 0.0)
        fixed = startup.cpu + at_once * setup.mean
        return {
            "workers": workers,
            "at_once": at_once,
            "startup": {"wall_seconds": round(begin, 2), "cpu_seconds": round(fixed, 2)},
            "settings": [
                {"max_pixels": each.max_pixels, "media": each.media, **self._time(number, at_once, begin, fixed)}
                for number, each in enumerate(self.settings)
            ],
        }

    def _time(self, number: int, at_once: int, begin: float, fixed: float) -> dict[str, Any]:
        survey, mode = self.surveys[number], number % len(MODES)
        rows = self._tokenizing(survey)
        compared = self._comparing(self.surveys[mode])  # a budget's few comparisons say too little
        work = [each + compared for each in (rows.value, rows.low, rows.high)]
        per_row = survey.tokenizing.mean
        return {
            "cpu_seconds": _rounded(work, fixed),
            "wall_seconds": _rounded([each / at_once for each in work], begin),
            "comparing_cpu_seconds": round(compared, 2),
            "per_row": {"warm": round(per_row, 6), "cold": round(survey.cold.mean, 6)},
            "rows_per_second_per_core": round(1 / per_row, 1) if per_row else None,
            "wall_of_cpu": round(survey.tokenizing.wall / max(survey.tokenizing.cpu, 1e-9), 2),
        }

    def _tokenizing(self, survey: Survey) -> Estimate:
        """CPU time of all rows: at most as in a worker that is not warm yet, at least as the warm ones took."""
        mean, cold = survey.tokenizing.mean, survey.cold.mean
        rows = replace(self.population, sampled=max(2, len(survey.seconds)))
        spread = rows.total(survey.seconds) if len(survey.seconds) else exactly(0.0)
        around = (spread.low / spread.value, spread.high / spread.value) if spread.value else (1.0, 1.0)
        value = mean * self.population.rows
        high = max(value * around[1], cold * self.population.rows)
        return Estimate(value=value, low=value * around[0], high=high)

    def _comparing(self, survey: Survey) -> float:
        """CPU time of the comparisons with the real processor, those at the start included."""
        fraction = self.settings[0].config.verify_fraction
        if fraction <= 0:
            return 0.0
        factor = self.population.rows / self.population.sampled
        seconds = STARTUP_ROWS * survey.tokenizing.mean
        for kind, count in survey.kinds.items():
            there = count * factor
            clock = survey.compared.get(kind, Clock())
            seconds += clock.mean * (max(fraction * there, min(ROWS_PER_KIND, there)) + min(SHAPES_PER_KIND, there))
        return seconds


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rounded(values: Sequence[float], constant: float) -> dict[str, float]:
    return {name: round(value + constant, 2) for name, value in zip(("value", "low", "high"), values, strict=True)}
