"""Where all text of all commands leaves for the terminal: what comes from data can move no cursor and forge no mark."""

from __future__ import annotations

from typing import Literal

import typer

from vlm_prep.core.visible import visible


def echo(text: str = "", *, err: bool = False, nl: bool = True, colour: Literal["red"] | None = None) -> None:
    """Print text with its control characters made visible; line feeds and tabs stay."""
    shown = visible(text, lines=True)
    typer.echo(shown if colour is None else typer.style(shown, fg=colour), err=err, nl=nl)


def echo_styled(text: str) -> None:
    """Print text that `report.labels_text` coloured, of what it had made visible."""
    typer.echo(text)


def echo_json(text: str) -> None:
    """Print JSON text that is made safe already, see `core.visible.visible_json`."""
    typer.echo(text)
