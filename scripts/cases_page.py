"""Fill the column "what happens" of docs/cases.md from what `scripts/cases.py --json` found.

    python scripts/cases_page.py docs/cases.md FOUND.json ...

The page says what each row is and why what happens is right; a row that it leaves out, or rows of one line that end
differently, stop it. Where processors differ, the most frequent outcome comes first and the others name theirs.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

Found = dict[str, dict[str, dict[str, str]]]
"""Data file → row → processor → outcome."""
WHOLE = "whole file"


def read(files: list[str]) -> Found:
    """Read what was found, of all processors."""
    found: Found = defaultdict(lambda: defaultdict(dict))
    for file in files:
        for where, rows in json.loads(Path(file).read_text()).items():
            for row, processors in rows.items():
                if row != "notes":
                    number = row if row == WHOLE else row.rpartition("/")[2]
                    found[where][number] |= {name: outcome["outcome"] for name, outcome in processors.items()}
    return found


def numbers(written: str) -> list[str]:
    """The rows of a line: `0-3, 7`."""
    if written == WHOLE:
        return [WHOLE]
    ranges = (each.strip().partition("-") for each in written.split(","))
    return [str(row) for first, _, last in ranges for row in range(int(first), int(last or first) + 1)]


def said(outcomes: dict[str, str]) -> str:
    """One outcome, or the most frequent and who has another."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, outcome in sorted(outcomes.items()):
        groups["refused" if outcome.endswith("Error") else outcome].append(name)
    (first, _), *others = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    word = {"written": "written", "refused": "refused"}
    more = [f"{', '.join(names)}: {word.get(outcome, f'`{outcome}`')}" for outcome, names in others]
    return "; ".join([word.get(first, f"`{first}`"), *more])


def main() -> None:
    """Fill the page."""
    page, found = Path(sys.argv[1]), read(sys.argv[2:])
    lines, seen = [], Counter[tuple[str, str]]()
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        where, _, written = cells[0].partition(" ")
        if len(cells) == 4 and where in found:
            rows = numbers(written)
            outcomes = {said(found[where][row]) for row in rows}
            if len(outcomes) > 1:
                raise SystemExit(f"{cells[0]}: ends in {len(outcomes)} ways: {sorted(outcomes)}")
            seen.update((where, row) for row in rows)
            line = f"| {cells[0]} | {cells[1]} | {outcomes.pop()} | {cells[3]} |"
        lines.append(line)
    if left := [f"{where} {row}" for where in found for row in found[where] if seen[where, row] != 1]:
        raise SystemExit(f"not on the page, or twice: {', '.join(left[:20])} ({len(left)})")
    page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
