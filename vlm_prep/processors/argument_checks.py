"""Settings of a processor's parts that are given by `processor_args`: whether each is known, taken, and of use.

transformers passes over what it does not know without a word, lets other keys win, and keeps what it never reads. A
setting that changes nothing is refused, since whoever gave it expects other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import MediaKind

CALL_DEFAULTS = ("images_kwargs", "videos_kwargs", "audio_kwargs")
"""The attributes of a processor that hold what it gives its parts with every call."""
PARTS: Mapping[MediaKind, tuple[str, ...]] = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("audio_processor", "feature_extractor"),
}
"""The attributes of a processor that hold the part for a kind of media."""
_LOWER = "lower the one or raise the other, in `processor_args`"
_SAMPLING = ("fps", "num_frames", "min_frames", "max_frames")


def require_known(name: str, hf: Any, args: Mapping[str, Any]) -> None:
    """Refuse settings that no part of the processor has: from_pretrained passes over them without a word."""
    parts = [getattr(hf, attribute, None) for attributes in PARTS.values() for attribute in attributes]
    parts = [part for part in (hf, *parts) if part is not None]
    for key in args:
        known = any(
            hasattr(part, key) or key in getattr(getattr(part, "valid_kwargs", None), "__annotations__", {})
            for part in parts
        )
        if not known:
            names = ", ".join(type(part).__name__ for part in parts)
            raise ProcessorError(f"{name}: no setting {key!r} in {names}", "check the spelling of `processor_args`")


def require_taken(name: str, hf: Any, args: Mapping[str, Any]) -> None:
    """Refuse settings that the processor does not have afterwards, and sizes of which the least is above the most."""
    held = _held(hf)
    _require_numbers(name, args)
    for key, value in args.items():
        found = [settings[key] for settings in held if key in settings]
        if not any(_holds(each, value) for each in found):
            kept = " and ".join(sorted({repr(each) for each in found})) or "nothing"
            if any(isinstance(each, Mapping) for each in found) and not isinstance(value, Mapping):
                raise ProcessorError(
                    f"{name}: `processor_args` {key}={value!r} is an object for its parts, which make {kept} of it",
                    "give the object that is meant",
                )
            raise ProcessorError(
                f"{name}: `processor_args` {key}={value!r} changes nothing: its parts keep {kept}",
                "check its form, or leave it out",
            )
    for settings in held:
        for few in (key for key in settings if key.startswith("min_")):
            many = "max_" + few[4:]
            pair = settings[few], settings.get(many)
            if not {few, many}.isdisjoint(args) and all(map(_is_number, pair)) and pair[0] > pair[1]:
                raise ProcessorError(f"{name}: {few} {pair[0]:g} is more than {many} {pair[1]:g}", _LOWER)
        size = settings.get("size")
        least, most = (size.get(edge) if size else None for edge in ("shortest_edge", "longest_edge"))
        if args and least is not None and most is not None and least > most:
            raise ProcessorError(
                f"{name}: pictures would have at least {least} and at most {most} pixels",
                "lower min_pixels (the shortest edge of a size) or raise max_pixels (its longest edge)",
            )


def _require_numbers(name: str, args: Mapping[str, Any]) -> None:
    """Refuse bounds and edges that are no numbers: a processor takes true for 1, and fails late on others."""
    bounds = {key: value for key, value in args.items() if key.startswith(("min_", "max_"))}
    edges = size if isinstance(size := args.get("size"), Mapping) else {}
    for key, value in (*bounds.items(), *((f"size's {edge}", value) for edge, value in edges.items())):
        if value is not None and not _is_number(value):
            raise ProcessorError(f"{name}: `processor_args` {key} is {value!r}, no number", "give it as one")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_changed(name: str, before: Any, after: Any, args: Mapping[str, Any]) -> None:
    """Refuse settings of which the processor's own files say the same."""
    for key in args:
        own, now = ([settings.get(key) for settings in _held(hf)] for hf in (before, after))
        if own == now:
            raise ProcessorError(
                f"{name}: `processor_args` {key}={args[key]!r} changes nothing: the processor says so itself",
                "leave it out",
            )


def _held(hf: Any) -> list[dict[str, Any]]:
    """Return the settings of a processor and of its parts, and what it gives these with every call."""
    parts = [hf, *(part for names in PARTS.values() for key in names if (part := getattr(hf, key, None)) is not None)]
    return [_settings_of(part) for part in parts] + [dict(getattr(hf, name, None) or {}) for name in CALL_DEFAULTS]


def _settings_of(part: Any) -> dict[str, Any]:
    settings = {key: _plain(value) for key, value in vars(part).items() if not key.startswith("_")}
    size = settings.get("size") or {}
    # Qwen's parts hold these two as the edges of a size
    pixels = {"max_pixels": size.get("longest_edge"), "min_pixels": size.get("shortest_edge")}
    return {**{key: value for key, value in pixels.items() if value is not None}, **settings, "size": size}


def _holds(held: Any, asked: Any) -> bool:
    """Whether a part holds what was asked for: the same, or at least the same of each key."""
    if isinstance(asked, Mapping):
        return isinstance(held, Mapping) and all(_holds(held.get(key), value) for key, value in asked.items())
    if isinstance(asked, list | tuple):
        return isinstance(held, list | tuple) and list(held) == list(asked)
    return bool(held == asked) or (isinstance(asked, str) and str(getattr(held, "value", held)) == asked)


def _plain(value: Any) -> Any:
    """Return transformers' sizes as what they say; any other value as it is."""
    is_size = type(value).__name__ == "SizeDict" or isinstance(value, Mapping)
    return {key: each for key, each in dict(value).items() if each is not None} if is_size else value


def require_used(name: str, hf: Any, args: Mapping[str, Any]) -> None:
    """Refuse settings that a part holds and does not use: of frames where none are sampled, of a crop where none is.

    Raises:
        ProcessorError: there is one.
    """
    video = getattr(hf, "video_processor", None)
    calls = getattr(hf, "videos_kwargs", None) or {}
    samples = getattr(video, "do_sample_frames", False) or calls.get("do_sample_frames", False)
    pictures = [part for names in (PARTS["image"], PARTS["video"]) for key in names if (part := getattr(hf, key, None))]
    crops = any(getattr(part, "do_center_crop", None) for part in pictures)
    for key, value in args.items():
        why, way = "", ""
        if key in _SAMPLING and video is not None and not samples:
            why, way = f"its {type(video).__name__} takes all frames", "give do_sample_frames=true too, or `fps`"
        elif key == "crop_size" and not crops:
            why, way = "its parts crop nothing", "give do_center_crop=true too, or leave it out"
        if why:
            raise ProcessorError(f"{name}: `processor_args` {key}={value!r} changes nothing: {why}", way)
    both = samples and getattr(video, "num_frames", None) and getattr(video, "fps", None)
    if both and not {"num_frames", "fps"}.isdisjoint(args):
        other = "fps" if "num_frames" in args else "num_frames"
        raise ProcessorError(
            f"{name}: its {type(video).__name__} samples by {other}={getattr(video, other):g}, and takes fps or "
            "num_frames",
            f"give {other}=null too",
        )
