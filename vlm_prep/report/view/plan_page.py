"""The plan of a run as a page: its text, and charts of disk, tokens, packs and rejects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_prep.report.plan.plan_text import render as plan_text
from vlm_prep.report.view import charts
from vlm_prep.report.view.page import Page, render


def plan_page(found: Mapping[str, Any], title: str) -> str:
    """Return the HTML of what `planning.plan` found."""
    lengths = found["lengths"]
    figures = (
        charts.bars("Disk by --media", {name: disk["value"] / 2**20 for name, disk in found["disk"].items()}, "MiB"),
        charts.bars("Rows rejected", {name: count["value"] for name, count in found["rejects"].items()}),
        _by_length("Rows too long, by --max-length", lengths, "too_long"),
        _by_length("Tokens left, by --max-length", lengths, "tokens"),
        _by_length("Packs, by --pack-length", lengths, "packs"),
        charts.bars(
            "Tokens by pixel budget",
            {f"{each['max_pixels']:,}": each["tokens"]["value"] for each in found["budgets"]["tried"]},
        ),
    )
    rows = f"{found['sampled']:,} of {found['rows']:,} rows looked at"
    return render(
        Page(
            title=title,
            about=f"plan for {found['processor']['name']}: {rows}; intervals of the values are in the text",
            facts=plan_text(dict(found)),
            rows=[],
            total=found["rows"],
            rejects=[],
            rejected=0,
            charts=[each for each in figures if each],
        )
    )


def _by_length(title: str, lengths: list[dict[str, Any]], name: str) -> str:
    values = {f"{each['max_length']:,}": each[name]["value"] for each in lengths if name in each}
    return charts.bars(title, values)
