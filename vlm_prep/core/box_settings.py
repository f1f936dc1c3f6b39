"""How boxes and points in the data are read and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_doc import Doc

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Later, Settings

BoxNumbers = Literal["absolute", "unit", "thousand"]
BoxesWritten = Literal["family", "resized", "absolute", "unit", "thousand"]
BoxesOutside = Literal["reject", "clip"]


@dataclass(frozen=True, kw_only=True)
class BoxConfig(Settings):
    """Boxes and points of pictures, see `tokenize.boxes`."""

    title: ClassVar[str] = "Boxes and points"

    boxes: Annotated[
        BoxNumbers | None,
        Later(),
        Doc(
            "Coordinates of boxes and points in the data: pixels of the upright picture, 0 to 1, or 0 to 1000; see "
            "docs/boxes.md. [default: they are text like any other]"
        ),
    ] = None
    boxes_written: Annotated[
        BoxesWritten,
        Later(),
        Doc(
            "How they are written: as the family's models were trained, in pixels of the resized picture or of the "
            "file's, 0 to 1, or 0 to 1000."
        ),
    ] = "family"
    boxes_outside: Annotated[
        BoxesOutside, Later(), Doc("A box or point that lies outside of its picture: reject the row, or clip it.")
    ] = "reject"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boxes is None and (self.boxes_written, self.boxes_outside) != ("family", "reject"):
            raise InputError(
                "`boxes_written` and `boxes_outside` change nothing without `boxes`",
                "say with `boxes` what the numbers in the data are: absolute, unit or thousand",
            )
