"""How long a row may be, and what becomes of longer ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Later, Settings

Overlong = Literal["drop", "truncate", "cut", "rescue", "error"]
OverlongAudio = Literal["reject", "cut", "split"]
RESCUE_STEPS = ("pixels", "frames", "split", "turns")
"""Those that take least away come first."""


@dataclass(frozen=True, kw_only=True)
class LengthConfig(Settings):
    """How long a row may be."""

    title: ClassVar[str] = "Length"

    max_length: Annotated[int | None, Ge(1), Doc("Most tokens in a row. [default: no limit]")] = None
    overlong: Annotated[
        Overlong,
        Doc(
            "Longer rows: reject, cut whole turns off the end (truncate), cut inside a turn but never inside a media "
            "(cut), make them shorter by steps (rescue), or stop (error)."
        ),
    ] = "drop"
    rescue: Annotated[
        str,
        Later(),
        Doc("Steps of `overlong=rescue` in their order, of pixels, frames, split and turns; see docs/rescue.md."),
    ] = ",".join(RESCUE_STEPS)
    rescue_min_pixels: Annotated[
        int, Ge(1), Later(), Doc("Rescue scales no picture or frame below this number of pixels.")
    ] = 448 * 448
    rescue_min_frames: Annotated[int, Ge(1), Later(), Doc("Frames that rescue leaves a video at least.")] = 8
    exact_length: Annotated[
        int | None,
        Ge(1),
        Later(),
        Doc("Every row has exactly N tokens: longer ones are cut, shorter ones rejected; for runs that measure."),
    ] = None
    overlong_audio: Annotated[
        OverlongAudio, Later(), Doc("Clips longer than the processor takes: reject, cut, or split into several.")
    ] = "reject"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exact_length is not None and self.max_length not in (None, self.exact_length):
            raise InputError(
                f"`exact_length={self.exact_length}` and `max_length={self.max_length}` differ", "leave one out"
            )
        unknown = [step for step in self.rescue_steps if step not in RESCUE_STEPS]
        if unknown or len(set(self.rescue_steps)) < len(self.rescue_steps):
            raise InputError(f"`rescue={self.rescue}`: it is some of {', '.join(RESCUE_STEPS)}, each once")
        if self.overlong == "rescue" and (self.max_length is None or self.exact_length is not None):
            raise InputError("`overlong=rescue` brings rows below `max_length`", "give `max_length`, no `exact_length`")

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of a row."""
        return self.max_length if self.exact_length is None else self.exact_length

    @property
    def cuts(self) -> bool:
        """Whether a longer row is cut inside a turn."""
        return self.exact_length is not None or self.overlong == "cut"

    @property
    def rescue_steps(self) -> tuple[str, ...]:
        """The steps of `rescue`."""
        return tuple(step.strip() for step in self.rescue.split(","))
