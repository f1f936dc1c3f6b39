"""Histograms and bars as SVG, from numbers and names alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.visible import visible

WIDTH, HEIGHT, FOOT = 460, 150, 18
BINS = 40


def shown(text: str) -> str:
    """Return text of data as HTML in which nothing acts, and nothing is hidden."""
    return escape(visible(text, lines=True))


def histogram(title: str, values: NDArray[Any], unit: str, *, mark: float | None = None) -> str:
    """Return the histogram of (n,) values; `mark` draws a limit."""
    if not len(values):
        return ""
    low, high = float(values.min()), float(max(values.max(), mark or 0))
    counts, edges = np.histogram(values, bins=BINS, range=(low, high if high > low else low + 1))
    most, step = int(counts.max()), WIDTH / BINS
    bars = [
        f'<rect x="{at * step:.1f}" y="{HEIGHT - count / most * HEIGHT:.1f}" width="{step - 1:.1f}" '
        f'height="{count / most * HEIGHT:.1f}">'
        f"<title>{edges[at]:,.0f} to {edges[at + 1]:,.0f}: {count:,}</title></rect>"
        for at, count in enumerate(counts.tolist())
        if count
    ]
    if mark is not None and high > low:
        x = (mark - low) / (high - low) * WIDTH
        bars.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>')
    axis = (
        f'<text x="0" y="{HEIGHT + FOOT - 4}">{low:,.0f}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + FOOT - 4}" text-anchor="end">{high:,.0f} {shown(unit)}</text>'
    )
    about = f"{len(values):,} in all, median {np.median(values):,.0f}, mean {values.mean():,.0f}"
    return _figure(title, about, HEIGHT + FOOT, "".join(bars) + axis)


def bars(title: str, values: Mapping[str, float], unit: str = "") -> str:
    """Return a horizontal bar for each name."""
    if not values:
        return ""
    most = max(values.values()) or 1
    line = 20
    drawn = "".join(
        f'<rect x="150" y="{at * line + 3}" width="{value / most * (WIDTH - 240):.1f}" height="{line - 6}"/>'
        f'<text x="145" y="{at * line + 14}" text-anchor="end">'
        f"{shown(_short(name))}<title>{shown(name)}</title></text>"
        f'<text x="{155 + value / most * (WIDTH - 240):.1f}" y="{at * line + 14}">{value:,.6g} {shown(unit)}</text>'
        for at, (name, value) in enumerate(values.items())
    )
    return _figure(title, "", line * len(values), drawn)


def pack_bars(packs: Sequence[tuple[str, Sequence[int]]], length: int) -> str:
    """Return a bar for each pack, cut at its documents; `length` is a full one."""
    line, margin = 12, 40
    drawn = []
    for at, (name, lengths) in enumerate(packs):
        x = float(margin)
        about = f"{name.removeprefix('pack ')} · {100 * sum(lengths) / length:.0f} %"
        drawn.append(f'<text x="{margin - 3}" y="{at * line + 7}" text-anchor="end">{shown(about)}</text>')
        for number, tokens in enumerate(lengths):
            width = tokens / length * (WIDTH - margin)
            drawn.append(
                f'<rect class="doc{number % 2}" x="{x:.2f}" y="{at * line}" width="{max(0.5, width - 0.5):.2f}" '
                f'height="{line - 2}"><title>{shown(name)}: document {number}, {tokens:,} tokens</title></rect>'
            )
            x += width
    return _figure(
        "Packs",
        f"each line a pack of {length:,} tokens, how full, cut at its documents",
        line * len(packs),
        "".join(drawn),
    )


def _figure(title: str, about: str, height: int, inside: str) -> str:
    caption = f"<figcaption><b>{shown(title)}</b> {shown(about)}</figcaption>"
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{shown(title)}"'
    return f"<figure>{caption}<svg {box}>{inside}</svg></figure>"


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
