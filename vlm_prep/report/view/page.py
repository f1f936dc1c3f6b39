"""A page as one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson

from vlm_prep.core.visible import visible
from vlm_prep.report.view.charts import shown


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows."""

    title: str
    about: str
    """A line under the title."""
    facts: str
    """The store's statistics as text."""
    rows: Sequence[dict[str, Any]]
    """See `shown_rows`; each with `row`, `why`, and for a document of a pack `pack`."""
    total: int
    """Rows of the store."""
    rejects: Sequence[dict[str, Any]]
    rejected: int
    charts: Sequence[str]
    """SVG figures."""
    packs: str = ""
    """The packs as bars, SVG."""


def render(page: Page) -> str:
    """Return the HTML."""
    style, script = _resource("page.css"), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    data = {"rows": page.rows, "total": page.total, "rejects": page.rejects, "rejected": page.rejected}
    rows = ["rows", *(["packs"] if page.packs else [])] if page.rows else []
    rejects = ["rejects"] if page.rows or page.rejects else []
    tabs = [*rows, "charts", *rejects, "about"] if not rows else [*rows, "rejects", "charts", "about"]
    buttons = "".join(
        f'<button role="tab" data-tab="{name}" aria-selected="false">{name.capitalize()}</button>' for name in tabs
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{shown(page.title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{shown(page.title)}</h1><p>{shown(page.about)}</p></header>
<nav role="tablist">{buttons}</nav>
<main>
<section id="rows">
<div id="side">
<div id="filters">
<input type="search" id="search" placeholder="search ids, text, files" aria-label="search">
<select id="dataset" aria-label="data set"></select><select id="kind" aria-label="kind"></select>
<select id="why" aria-label="why shown"></select>
<select id="order" aria-label="order">{_options("store order", "longest first", "shortest first")}</select>
<input type="number" id="least" min="0" placeholder="least tokens" aria-label="least tokens">
<input type="number" id="most" min="0" placeholder="most tokens" aria-label="most tokens">
<small id="found"></small>
</div>
<div id="list"></div>
</div>
<div id="row"></div>
</section>
<section id="packs" class="plain"><div class="wide">{page.packs}</div></section>
<section id="rejects" class="plain">
<p><select id="reason" aria-label="reason"></select>
<select id="reject-order" aria-label="order"><option value="">store order</option>
<option value="over">nearest to the limit</option></select>
<input type="search" id="reject-search" placeholder="search" aria-label="search rejects">
<small id="reject-count"></small></p>
<div class="wide"><table><thead><tr><th>row</th><th>reason</th><th>file:line</th><th>message</th></tr></thead>
<tbody id="reject-rows"></tbody></table></div>
</section>
<section id="charts" class="plain"><div class="charts">{"".join(page.charts)}</div></section>
<section id="about" class="plain"><pre>{shown(page.facts)}</pre></section>
</main>
<script type="application/json" id="data">{_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _options(*names: str) -> str:
    return "".join(f"<option>{name}</option>" for name in names)


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in: no < is left in it."""
    return orjson.dumps(_visible(value)).decode().replace("<", "\\u003c")


def _visible(value: Any) -> Any:
    """Return a value with all its texts as they are shown."""
    if isinstance(value, str):
        return visible(value, lines=True)
    if isinstance(value, dict):
        return {_visible(name): _visible(each) for name, each in value.items()}
    return [_visible(each) for each in value] if isinstance(value, list | tuple) else value
