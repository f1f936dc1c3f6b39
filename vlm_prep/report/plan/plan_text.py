"""The plan of `report.plan.planning` as text for a terminal. What is estimated is rounded and carries its ±; only what
was counted in all rows is written out in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Number = Mapping[str, int]
Seconds = Mapping[str, float]
_UNITS = (" M", " G", " T")
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_BUSY = 1.5
"""Wall time of CPU time from which on the user is told."""


def render(plan: Mapping[str, Any]) -> str:
    """Return a plan as text."""
    lines = [
        f"plan for {plan['processor']['name']} ({plan['processor']['family']}, {plan['processor']['level']} level)",
        *_rows(plan),
        "",
        *_table(_modes(plan)),
        *_about_time(plan),
        "",
        *_table(_lengths(plan)),
    ]
    lines += [f"  {plan['packs_note']}"] if plan["packs_note"] else []
    lines += ["", *_budgets(plan)]
    return "\n".join(lines)


def _rows(plan: Mapping[str, Any]) -> list[str]:
    words = _Words(plan["exact"])
    sampled, rows = plan["sampled"], plan["rows"]
    if plan["exact"]:
        lines = [f"  rows       {rows:,}, all of them looked at: counts are exact, times are not"]
    else:
        share = f"{sampled / rows:.2%}" if sampled / rows < 0.01 else f"{sampled / rows:.1%}"
        lines = [
            f"  rows       {sampled:,} of {rows:,} looked at ({share}): all below is estimated from them,",
            "             ± and (from - to) are their 95 % intervals",
        ]
    documents = "" if plan["documents"] == plan["written"] else f", as {words.number(plan['documents'])} documents"
    lines.append(f"  written    {words.range(plan['written'])} rows{documents}")
    lines += _rejects(plan)
    if plan["boxes_seen"]:
        lines += [
            f"  boxes      {plan['boxes_seen']:,} of the rows looked at have answers that look like boxes or points,",
            "             which are trained as they stand: --boxes says what their numbers are (docs/boxes.md)",
        ]
    lines.append(f"  tokens     {words.number(plan['tokens'])}, {words.number(plan['trained_tokens'])} trained")
    return lines


def _rejects(plan: Mapping[str, Any]) -> list[str]:
    words = _Words(plan["exact"])
    by_media = plan["rejects_by_media"]
    same = all(found == plan["rejects"] for found in by_media.values())
    lines = []
    for media, found in [(plan["media"], plan["rejects"])] if same else by_media.items():
        head = "  rejects    " + ("" if same else f"--media {media}: ")
        each = [f"{words.range(number)} {reason} ({number['seen']} seen)" for reason, number in found.items()]
        if plan["exact"]:
            each = [f"{number['seen']:,} {reason}" for reason, number in found.items()]
        lines.append(head + (", ".join(each) or ("none" if plan["exact"] else "none seen")))
    if not plan["exact"]:
        lines.append(f"             a reason that was not seen: at most {plan['unseen_reject']['high']:,} rows")
    return lines


def _modes(plan: Mapping[str, Any]) -> list[list[str]]:
    words = _Words(plan["exact"])
    workers = plan["time"]["workers"]
    table = [["--media", "disk", "CPU time", f"wall, {workers} worker{'s' * (workers != 1)}", "rows/s a core"]]
    for media, size in plan["disk"].items():
        spent = _time_of(plan, None, media)
        rate = spent["rows_per_second_per_core"] or 0
        cells = [words.size(size), _time(spent["cpu_seconds"]), _time(spent["wall_seconds"]), f"{rate:,.0f}"]
        table.append([media, *cells])
    return table


def _about_time(plan: Mapping[str, Any]) -> list[str]:
    begin = plan["time"]["startup"]["wall_seconds"]
    lines = [
        f"  times are about this machine now; {_seconds(begin)} of them is loading; the upper end is a worker's pace",
        "  before its caches are warm; comparing rows with the real processor is counted, waiting for a disk is not",
    ]
    if any(plan["shared_bytes_seen"].values()) and not plan["exact"]:
        lines.append("  rows share media, stored once a shard: the whole may share more and take less disk")
    slow = max(each["wall_of_cpu"] for each in plan["time"]["settings"])
    if slow > _BUSY:
        lines.append(f"  rows took up to {slow:.1f} times their CPU time here: other work or the disk held them up")
    return lines


def _lengths(plan: Mapping[str, Any]) -> list[list[str]]:
    words = _Words(plan["exact"])
    packed = plan["packs_note"] is None
    media = list(plan["disk"])
    table = [
        ["--max-length", "rows too long", "tokens left", *(["packs", "fill"] if packed else [])]
        + [f"disk, {name}" for name in media]
    ]
    for each in plan["lengths"]:
        packs = [words.number(each["packs"]), f"{each['fill']:.1%}"] if packed else []
        sizes = [words.size(each["disk"][name]) for name in media]
        tokens = words.number(each["tokens"])
        table.append([f"{each['max_length']:,}", words.range(each["too_long"]), tokens, *packs, *sizes])
    return table


def _budgets(plan: Mapping[str, Any]) -> list[str]:
    words = _Words(plan["exact"])
    budgets = plan["budgets"]
    if budgets["own"] is None:
        return [f"  {budgets['note']}"]
    if not budgets["tried"]:
        return [f"  max_pixels {budgets['own']:,} is the processor's; no other was tried"]
    shown = "packs (rows too long)" if plan["packs_note"] is None else "rows too long"
    media = list(plan["disk"])
    lengths = [f"{each['max_length']:,}" for each in plan["lengths"]]
    measured = [f"{what}, {name}" for what in ("disk", "CPU") for name in media]
    table = [["max_pixels", "tokens", *measured, *lengths]]
    own = {**plan, "max_pixels": None}
    for each in [*budgets["tried"], own]:
        pixels = each["max_pixels"]
        table.append(
            [
                f"{pixels or budgets['own']:,}" + ("" if pixels else " (own)"),
                words.number(each["tokens"]),
                *(words.size(each["disk"][name]) for name in media),
                *(_time(_time_of(plan, pixels, name)["cpu_seconds"]) for name in media),
                *(_packs(length, words) for length in each["lengths"]),
            ]
        )
    return [f"  --max-pixels N; in the last columns {shown} at that --max-length", *_table(table)]


def _packs(length: Mapping[str, Any], words: _Words) -> str:
    long = length["too_long"]["value"]
    long_rows = f"{long:,}" if words.exact else _rounded(long)
    return f"{words.number(length['packs'])} ({long_rows})" if "packs" in length else long_rows


def _time_of(plan: Mapping[str, Any], pixels: int | None, media: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(
        each for each in plan["time"]["settings"] if each["max_pixels"] == pixels and each["media"] == media
    )
    return found


# ---- numbers ----


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligns = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return [
        "  " + "  ".join(align(cell, width) for align, cell, width in zip(aligns, row, widths, strict=True))
        for row in rows
    ]


@dataclass(frozen=True)
class _Words:
    """Writes numbers: counts in full if all rows were looked at, else rounded and with their interval."""

    exact: bool

    def number(self, number: Number) -> str:
        return f"{number['value']:,}" if self.exact else self._estimated(number, _rounded)

    def size(self, number: Number) -> str:
        return _bytes(number["value"]) if self.exact else self._estimated(number, _bytes)

    def range(self, number: Number) -> str:
        """With the interval's ends, for counts, whose intervals are lopsided."""
        if self.exact:
            return f"{number['value']:,}"
        return f"{_rounded(number['value'])} ({_rounded(number['low'])} - {_rounded(number['high'])})"

    def _estimated(self, number: Number, show: Callable[[float], str]) -> str:
        """With the wider half of the interval as a share of the value."""
        value = number["value"]
        if not value:
            return f"none seen (to {show(number['high'])})"
        half = max(number["high"] - value, value - number["low"]) / value
        return show(value) + (f" ±{half:.2g}x" if half >= 1 else f" ±{100 * half:.2g}%")


def _rounded(value: float) -> str:
    """Three digits: 1,230 or 12.3 M."""
    if value < 1e6:
        digits = max(0, len(str(round(value))) - 3)
        return f"{round(value, -digits):,.0f}"
    return _in_units(value / 1e6, _UNITS, 1000, 1000)


def _bytes(value: float) -> str:
    return _in_units(value, _BYTES, 1024, 1000, " ")


def _in_units(value: float, units: Sequence[str], step: float, most: float, blank: str = "") -> str:
    unit = 0
    while round(value) >= most and unit < len(units) - 1:
        value, unit = value / step, unit + 1
    digits = 0 if value >= 100 or units[unit] == _BYTES[0] else 1 if value >= 10 else 2
    return f"{value:.{digits}f}{blank}{units[unit]}"


def _time(seconds: Seconds) -> str:
    """A time and its upper end, in one unit."""
    show = _unit_of(seconds["high"])
    low, high = show(seconds["value"]), show(seconds["high"])
    return f"about {low}" if low == high else f"{low.rpartition(' ')[0]} - {high}"


def _seconds(value: float) -> str:
    return _unit_of(value)(value)


def _unit_of(value: float) -> Callable[[float], str]:
    factor, name = (1, "s") if value < 120 else (60, "min") if value < 7200 else (3600, "h")
    return lambda seconds: f"{seconds / factor:.{0 if seconds / factor >= 10 else 1}f} {name}"
