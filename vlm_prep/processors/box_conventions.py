"""In which numbers the models of a family give boxes, and in which form; and how large they see a picture.

    qwen2_vl                    0 to 1000             <|box_start|>(x1,y1),(x2,y2)<|box_end|>
    qwen2_5_vl, qwen2_5_omni    the resized picture   [x1, y1, x2, y2]
    qwen3_vl, qwen3_omni        0 to 1000             [x1, y1, x2, y2]
    internvl                    0 to 1000             <box>[[x1, y1, x2, y2]]</box>

As their authors say it: Qwen's process_bbox.ipynb (Qwen3-VL takes Qwen2-VL's numbers, issues 1486 and 1633 of
QwenLM/Qwen3-VL; those of Qwen2.5-VL are of the size "after the processor", issue 676), and InternVL's page on grounding
data. The forms are those of ms-swift, for `<bbox>` of its `objects`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import Media, MediaHeader
from vlm_prep.core.settings import BoxConfig
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Size

Numbers = Literal["resized", "absolute", "unit", "thousand"]
_GRID = "image_grid_thw"


@dataclass(frozen=True, slots=True)
class BoxConvention:
    """How boxes are written."""

    numbers: Numbers = "thousand"
    box: tuple[str, str, str] = ("[", ", ", "]")
    """Before the numbers, between them, behind them; with a blank pair of numbers as (x,y) where between is `),(`."""
    ref: tuple[str, str] = ("", "")
    """Around what is in the box."""

    def written(self, numbers: list[str]) -> str:
        """Return a box or point."""
        before, between, after = self.box
        if between == "),(":
            pairs = (",".join(numbers[place : place + 2]) for place in range(0, len(numbers), 2))
            return before + between.join(pairs) + after
        return before + between.join(numbers) + after


_LIST = BoxConvention()
_RESIZED = BoxConvention(numbers="resized")
_KNOWN = {
    "qwen2_vl": BoxConvention(
        box=("<|box_start|>(", "),(", ")<|box_end|>"), ref=("<|object_ref_start|>", "<|object_ref_end|>")
    ),
    "qwen2_5_vl": _RESIZED,
    "qwen2_5_omni": _RESIZED,
    "qwen3_vl": _LIST,
    "qwen3_omni_moe": _LIST,
    "internvl": BoxConvention(box=("<box>[[", ", ", "]]</box>"), ref=("<ref>", "</ref>")),
}


def box_convention(adapter: Adapter, config: BoxConfig) -> BoxConvention:
    """Return how boxes are written.

    Raises:
        ProcessorError: the family's convention is not known and none is asked for, or how large its models see a
            picture is not known and the numbers depend on it.
    """
    known = _KNOWN.get(adapter.family)
    if config.boxes_written == "family":
        if known is None:
            raise ProcessorError(
                f"{adapter.loaded.name}: in which numbers {adapter.family} models give boxes is not known",
                "say it with `boxes_written`: resized, absolute, unit or thousand",
            )
        return known
    if config.boxes_written == "resized" and _GRID not in {tensor.name for tensor in adapter.geometry}:
        raise ProcessorError(
            f"{adapter.loaded.name}: how large {adapter.family} models see a picture is not known",
            "choose another `boxes_written` than resized",
        )
    form = known or _LIST
    return BoxConvention(numbers=config.boxes_written, box=form.box, ref=form.ref)


def seen_size(adapter: Adapter, header: MediaHeader) -> Size:
    """Return height and width of a picture as the processor resizes it."""
    (made,) = adapter.expand((Media(kind="image", uris=("",), header=header),))
    _, height, width = made.geometry[_GRID][0].tolist()
    patch = int(adapter.hf.image_processor.patch_size)
    return height * patch, width * patch
