"""Position ids of a document of Qwen-Omni: pictures, videos, audio, and videos with their sound, on one time line.

The rule is the thinker's `get_rope_index` of transformers 5.23 (models/qwen2_5_omni, qwen3_omni_moe). As in
`positions`, a token has a (time, height, width) position and text moves all three together. What is different:

- Audio is like text: one step a token. `position_id_per_seconds` steps are a second, for audio and video alike.
- What follows a media begins one after the largest position in it, time included.
- A video with its sound is one stretch of both tokens between `<vision_start><audio_start>` and
  `<audio_end><vision_end>`. Both count from the same start and are merged by time (Qwen2.5-Omni: by pieces of two
  seconds, and the two tokens before it share a position, as the two behind it do). What follows begins one after the
  last of them.
- Qwen3-Omni's positions are float32: a step of a video may last a fraction of a position.

The reference has one flag for whether videos have their sound; here it is read off the tokens. So a row that has
silent videos beside others, of which the reference loses count, is placed as its parts are alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.positions import Mrope, merged_grids

_TEXT, _IMAGE, _VIDEO, _AUDIO = 0, 1, 2, 3
_KINDS: dict[int, Literal["image", "video", "audio"]] = {_IMAGE: "image", _VIDEO: "video", _AUDIO: "audio"}
Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Tokens of one media."""

    kind: Literal["image", "video", "audio", "both"]
    """"both" is a video with its sound."""
    begin: int
    end: int
    cells: int
    """Tokens that are not the sound of a video."""


def omni_positions(
    input_ids: NDArray[np.int32],
    image_grid_thw: NDArray[Any] | None,
    video_grid_thw: NDArray[Any] | None,
    second_per_grid: NDArray[Any] | None,
    rule: Mrope,
) -> NDArray[Any]:
    """Compute the position ids of one document, equal to transformers' `get_rope_index`.

    Args:
        input_ids: (length,) token ids with the placeholders expanded, without padding.
        image_grid_thw: (n_images, 3) patches along time, height and width; None is the same as no image.
        video_grid_thw: (n_videos, 3) the same for videos.
        second_per_grid: (n_videos,) seconds between two grid steps, float32.
        rule: the model's scheme and constants.

    Returns:
        (3, length) time, height and width positions: int32 for Qwen2.5-Omni, float32 for Qwen3-Omni.

    Raises:
        ValueError: media tokens and grids do not agree one to one in number and in tokens, a grid has no cells,
            `second_per_grid` has not one finite value for each video, or `input_ids` is not 1-D.
    """
    tokens = np.asarray(input_ids)
    if tokens.ndim != 1:
        raise ValueError(f"input_ids have shape {tokens.shape}, one document has (length,)")
    stretches = list(_stretches(tokens, rule))
    images, videos = merged_grids(image_grid_thw, "image", rule), merged_grids(video_grid_thw, "video", rule)
    seconds = _seconds(second_per_grid, len(videos))
    _match("image", [s for s in stretches if s.kind == "image"], images)
    _match("video", [s for s in stretches if s.kind in ("video", "both")], videos)
    line = _Line(len(tokens), rule)
    pictures, clips = iter(images), iter(zip(videos, seconds, strict=True))
    for stretch in stretches:
        line.text_until(stretch)
        if stretch.kind == "audio":
            line.audio(stretch)
        elif stretch.kind == "image":
            line.cells(stretch, next(pictures), np.float32(1))
        else:
            line.cells(stretch, *next(clips))
    line.text_until(None)
    return line.positions


class _Line:
    """The positions of a document, written from its start to its end."""

    def __init__(self, length: int, rule: Mrope) -> None:
        self._whole = rule.scheme == "qwen2_5_omni"
        # tokens of a piece of a video with sound; 0 where both are merged token by token
        self._chunk = int((rule.tokens_per_second or 0) * (rule.seconds_per_chunk or 0)) if self._whole else 0
        self._rate = np.float32(rule.tokens_per_second or 1)
        self._type: Any = np.int64 if self._whole else np.float32
        self._positions = np.zeros((3, length), self._type)
        self._done = 0
        self._next = self._type(0)
        self._closing = 0

    @property
    def positions(self) -> NDArray[Any]:
        """(3, length)"""
        return self._positions.astype(np.int32) if self._whole else self._positions

    def text_until(self, media: _Stretch | None) -> None:
        """Write the text up to a media: the tokens that close the last one, text, the tokens that open this one.

        In three, since float32 sums depend on where they begin.
        """
        count = (self._positions.shape[1] if media is None else media.begin) - self._done
        closing = min(self._closing, count)
        opening = 0 if media is None else min(2 if media.kind == "both" else 1, count - closing)
        if closing:
            self._next = self._edge(closing) + self._type(1)
        self._next = self._text(count - closing - opening)
        if opening:
            self._edge(opening)
            self._next = self._next + self._type(1 if self._whole else opening)
        self._closing = 0 if media is None else (2 if media.kind == "both" else 1)

    def audio(self, stretch: _Stretch) -> None:
        """Write the tokens of an audio file."""
        self._next = self._write(self._steps(stretch.end - stretch.begin)) + self._type(1)

    def cells(self, stretch: _Stretch, grid: Grid, second: np.float32) -> None:
        """Write the cells of a picture or a video, merged with its sound where it has some."""
        positions = self._grid(grid, second)
        sound = self._steps(stretch.end - stretch.begin - stretch.cells)
        if len(sound):
            order = self._by_pieces(positions[0], sound) if self._chunk else _by_time(positions[0], sound)
            positions = np.concatenate([positions, np.tile(sound, (3, 1))], axis=1)[:, order]
        # the last cell has the largest position on every axis
        self._write(positions)
        self._next = positions[:, -1].max() + self._type(1)

    def _by_pieces(self, times: NDArray[Any], sound: NDArray[Any]) -> NDArray[np.int64]:
        """Order a video's cells and its sound by turns of `seconds_per_chunk`."""
        pieces = (self._pieces(times), [piece + len(times) for piece in self._pieces(sound)])
        turns = [piece for turn in zip_longest(*pieces) for piece in turn if piece is not None]
        return np.concatenate(turns)

    def _pieces(self, times: NDArray[Any]) -> list[NDArray[np.int64]]:
        """Numbers of the tokens of each piece. A piece has a token at least: the reference's `get_chunked_index`."""
        bounds = [0]
        while True:
            due = int(np.searchsorted(times, self._next + len(bounds) * self._chunk))
            bound = max(due, bounds[-1] + (len(bounds) > 1))
            if bound >= len(times):
                break
            bounds.append(bound)
        return [np.arange(begin, end) for begin, end in pairwise([*bounds, len(times)])]

    def _grid(self, grid: Grid, second: np.float32) -> NDArray[Any]:
        steps, height, width = grid
        times = np.arange(steps).astype(np.float32) * second * self._rate
        axes = (times.astype(self._type), np.arange(height), np.arange(width))
        cells = [self._next + axis.astype(self._type) for axis in axes]
        return np.stack([axis.reshape(-1) for axis in np.meshgrid(*cells, indexing="ij")])

    def _steps(self, count: int) -> NDArray[Any]:
        steps: NDArray[Any] = self._next + np.arange(count).astype(self._type)
        return steps

    def _text(self, count: int) -> Any:
        """Write text; return where what follows begins."""
        if count:
            self._write(self._steps(count))
        return self._next + self._type(count)

    def _edge(self, count: int) -> Any:
        """Write the tokens that open or close a media; return the last one's position."""
        return self._write(np.full(count, self._next) if self._whole else self._steps(count))

    def _write(self, positions: NDArray[Any]) -> Any:
        end = self._done + positions.shape[-1]
        self._positions[:, self._done : end] = positions
        self._done = end
        return positions[..., -1].max()


def _stretches(tokens: NDArray[Any], rule: Mrope) -> Iterator[_Stretch]:
    """Yield the media of the document in order."""
    kinds = np.zeros(len(tokens), np.int8)
    for kind, token in ((_IMAGE, rule.image_token_id), (_VIDEO, rule.video_token_id), (_AUDIO, rule.audio_token_id)):
        kinds[tokens == token] = kind
    begins = np.flatnonzero(np.diff(kinds, prepend=-1))
    ends = [*begins[1:], len(tokens)] if len(begins) else []
    runs = [(int(kinds[begin]), int(begin), int(end)) for begin, end in zip(begins, ends, strict=True)]
    position = 0
    while position < len(runs):
        kind, begin, end = runs[position]
        position += 1
        if kind == _VIDEO and _opens_both(tokens[max(begin - 2, 0) : begin], rule):
            while position < len(runs) and runs[position][0] in (_VIDEO, _AUDIO):
                end = runs[position][2]
                position += 1
            yield _Stretch("both", begin, end, int((kinds[begin:end] == _VIDEO).sum()))
        elif kind != _TEXT:
            yield _Stretch(_KINDS[kind], begin, end, end - begin)


def _by_time(times: NDArray[Any], sound: NDArray[Any]) -> NDArray[np.int64]:
    """Order a video's cells and its sound by time, cells first among equals."""
    return np.argsort(np.concatenate([times, sound]), kind="stable")


def _opens_both(before: NDArray[Any], rule: Mrope) -> bool:
    return list(before) == [rule.vision_start_token_id, rule.audio_start_token_id]


def _seconds(values: NDArray[Any] | None, videos: int) -> NDArray[np.float32]:
    seconds = np.asarray([] if values is None else values, np.float32)
    if seconds.shape != (videos,) or not np.isfinite(seconds).all():
        raise ValueError(
            f"video_second_per_grid is {seconds.tolist()} for {videos} videos: one finite number each is due"
        )
    return seconds


def _match(name: str, found: list[_Stretch], grids: list[Grid]) -> None:
    """Raise ValueError unless the n-th stretch of tokens has just the cells of the n-th grid."""
    cells = [steps * height * width for steps, height, width in grids]
    if len(found) != len(grids):
        raise ValueError(
            f"{len(found)} stretches of {name} tokens ({sum(each.cells for each in found)} tokens) for {len(grids)} "
            f"{name} grids ({sum(cells)} cells): they must match one to one"
        )
    for i, (stretch, due) in enumerate(zip(found, cells, strict=True)):
        if stretch.cells != due:
            raise ValueError(f"stretch {i} of {name} tokens has {stretch.cells} tokens, its grid {due} merged cells")
