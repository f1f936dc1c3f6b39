"""Float pixels as uint8 and back, bit by bit.

An image processor ends with arithmetic that maps each of a channel's 256 values to one float: rescale, subtract the
mean, divide by the deviation. So its tensor can be stored as uint8 and made again, if the same operations are done in
the same precision. They are not assumed: a `Uint8Rule` is found by looking at what the processor made of pictures that
hold all 256 values, and holds only if every single float is met.

Some tensors repeat a frame (a patch of Qwen's is two frames deep, and a picture has one): it is stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VALUES = 256
_CHANNELS = 3
Steps = tuple[tuple[str, tuple[float, ...]], ...]
Layout = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Uint8Rule:
    """How a float tensor is made of stored bytes; JSON-ready, it travels in the manifest."""

    steps: Steps
    """Operations in float32, in order: mul, sub, div with a number for each channel (one if all are alike); or table,
    with the channels' 256 floats one after the other."""
    channel_axis: int | None = None
    """The dimension of the channels, counted from the end (-3); None if they lie in the last one, or are alike."""
    channel_size: int | None = None
    """Elements of the last dimension of one channel: of the stored bytes; the channel of i is i // size % 3."""
    repeats: tuple[int, int] | None = None
    """(outer, times): the last dimension is (outer, times, rest) and equal along `times`, of which one is stored."""
    dtype: str = "float32"
    """Of the processor's tensor."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Uint8Rule:
        """Read what `to_json` wrote."""
        steps = tuple((name, tuple(values)) for name, values in data["steps"])
        repeats = tuple(data["repeats"]) if data["repeats"] else None
        return cls(**{**data, "steps": steps, "repeats": repeats})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)

    def restore(self, stored: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the processor's tensor, on the device of the stored one.

        Args:
            stored: uint8 (n, ...).
            out: where to make it: float32 of the tensor's shape, contiguous.
        """
        import torch

        if self.repeats is None:
            made = torch.empty(stored.shape, dtype=torch.float32, device=stored.device) if out is None else out
            self._apply(stored, made)
            return made
        outer, times = self.repeats
        rest = stored.shape[-1] // outer
        lead = stored.shape[:-1]
        if out is None:
            out = torch.empty((*lead, outer * times * rest), dtype=torch.float32, device=stored.device)
        if split_by_channel(stored.shape, self.channel_axis, self.channel_size) == (outer, rest):
            # made where the first frame stays: memory that is new costs more than the arithmetic
            frames = out.view(-1, outer, times, rest)
            self._compute(stored.view(-1, outer, rest), frames[:, :, 0])
            frames[:, :, 1:] = frames[:, :, :1]
            return out
        small = torch.empty(stored.shape, dtype=torch.float32, device=stored.device)
        self._apply(stored, small)
        out.view(*lead, outer, times, rest).copy_(small.view(*lead, outer, 1, rest).expand(*lead, outer, times, rest))
        return out

    def shape(self, stored: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the tensor that bytes of shape `stored` become."""
        return (*stored[:-1], stored[-1] * (self.repeats[1] if self.repeats else 1))

    def _apply(self, stored: torch.Tensor, made: torch.Tensor) -> None:
        """Make floats of bytes of the same shape."""
        self._compute(self._by_channel(stored), self._by_channel(made))

    def _compute(self, stored: torch.Tensor, made: torch.Tensor) -> None:
        """Make floats of bytes, both (outer, channels, inner)."""
        import torch

        first, numbers = self.steps[0]
        if first == "table":
            table = torch.tensor(numbers, dtype=torch.float32, device=stored.device).view(-1, VALUES)
            for channel, floats in enumerate(table):
                made[:, channel] = floats[stored[:, channel].int()]
            return
        made.copy_(stored)
        for name, values in self.steps:
            _IN_PLACE[name](made, _column(values, made))

    def _by_channel(self, tensor: torch.Tensor) -> torch.Tensor:
        """View a tensor of the stored shape as (outer, channels, inner)."""
        return tensor.view(-1, *split_by_channel(tensor.shape, self.channel_axis, self.channel_size))

    def store(self, made: torch.Tensor) -> torch.Tensor | None:
        """Return the uint8 to store for a processor's tensor, or None where it is not made of bytes bit by bit.

        Args:
            made: float (n, ...).
        """
        import torch

        small = self.without_repeats(made)
        if small is None:
            return None
        table = self.table().to(made.device)
        view = self._by_channel(small.contiguous())
        low, high = table[:, :1], table[:, -1:]
        guess = ((view - low) * ((VALUES - 1) / (high - low))).round_().clamp_(0, VALUES - 1)
        stored = guess.to(torch.uint8).view(small.shape)
        return stored if torch.equal(self.restore(stored), made) else None

    def table(self) -> torch.Tensor:
        """Return float32 (channels or 1, 256): what each byte becomes."""
        import torch

        channels = max(len(values) for name, values in self.steps) if self.steps[0][0] != "table" else 0
        channels = channels or len(self.steps[0][1]) // VALUES
        flat = Uint8Rule(steps=self.steps, channel_axis=-2 if channels > 1 else None)
        return flat.restore(torch.arange(VALUES, dtype=torch.uint8).repeat(channels, 1))

    def without_repeats(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return a tensor of the processor's shape with each repeated frame once; None if they are not equal."""
        if self.repeats is None:
            return tensor
        outer, times = self.repeats
        frames = tensor.reshape(*tensor.shape[:-1], outer, times, -1)
        first = frames[..., :1, :]
        if not bool((frames == first).all()):
            return None
        return first.reshape(*tensor.shape[:-1], -1)


def split_by_channel(shape: Sequence[int], axis: int | None, size: int | None) -> tuple[int, int]:
    """Return (channels, elements of each that lie together) of a tensor's innermost dimensions."""
    if axis is not None:
        inner = 1
        for length in shape[len(shape) + axis + 1 :]:
            inner *= length
        return shape[axis], inner
    return (_CHANNELS, size) if size is not None else (1, shape[-1])


def _mul(view: torch.Tensor, numbers: torch.Tensor) -> None:
    view.mul_(numbers)


def _sub(view: torch.Tensor, numbers: torch.Tensor) -> None:
    view.sub_(numbers)


def _div(view: torch.Tensor, numbers: torch.Tensor) -> None:
    view.div_(numbers)


_IN_PLACE = {"mul": _mul, "sub": _sub, "div": _div}


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    import torch

    # a tensor, never a Python number: by a number CUDA divides with its reciprocal, which rounds otherwise
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(-1, 1)


def find_rule(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], settings: Mapping[str, Any], *, frames: int = 1
) -> Uint8Rule | None:
    """Return how the floats of the pairs are made of their bytes, or None if there is no such way.

    Args:
        pairs: (uint8, float) of one shape, as the processor makes them of the same pictures, which hold all values.
        settings: of the part: image_mean, image_std, rescale_factor.
        frames: how often a picture's frame may be repeated.
    """
    import torch

    if any(made.dtype != torch.float32 for _, made in pairs):
        return None
    repeats = _find_repeats([stored for stored, _ in pairs], frames)
    plain = Uint8Rule(steps=(), repeats=repeats)
    small: list[tuple[torch.Tensor, torch.Tensor]] = []
    for pair in pairs:
        once = [plain.without_repeats(tensor) for tensor in pair]
        if once[0] is None or once[1] is None:
            return None
        small.append((once[0].contiguous(), once[1].contiguous()))
    for axis, size in layouts(small[0][0].shape):
        table = _table(small, axis, size)
        if table is not None:
            steps = _steps(table, settings)
            return Uint8Rule(steps=steps, channel_axis=axis, channel_size=size, repeats=repeats)
    return None


def _find_repeats(stored: Sequence[torch.Tensor], frames: int) -> tuple[int, int] | None:
    """Return (outer, times) if all tensors repeat along a part of their last dimension."""
    last = stored[0].shape[-1]
    for outer in (_CHANNELS, 1):
        if frames < 2 or last % (outer * frames):
            continue
        found = Uint8Rule(steps=(), repeats=(outer, frames))
        if all(found.without_repeats(tensor) is not None for tensor in stored):
            return found.repeats
    return None


def layouts(shape: Sequence[int]) -> Iterator[tuple[int | None, int | None]]:
    """Yield (channel_axis, channel_size) that a tensor may have, channels that are all alike first."""
    yield None, None
    for axis in range(-1, -len(shape), -1):
        if shape[axis] == _CHANNELS:
            yield axis, None
    if shape[-1] % _CHANNELS == 0:
        yield None, shape[-1] // _CHANNELS
        yield None, 1


def _table(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], axis: int | None, size: int | None) -> Any:
    """Return float32 (channels, 256), or None if a value has two floats or is not there."""
    import torch

    channels = split_by_channel(pairs[0][0].shape, axis, size)[0]
    table = torch.full((channels, VALUES), torch.nan)
    for stored, made in pairs:
        split = split_by_channel(stored.shape, axis, size)
        bytes_, floats = stored.view(-1, *split), made.view(-1, *split)
        for channel in range(channels):
            table[channel][bytes_[:, channel].int()] = floats[:, channel]
    if bool(table.isnan().any()):
        return None
    for stored, made in pairs:
        split = split_by_channel(stored.shape, axis, size)
        bytes_, floats = stored.view(-1, *split), made.view(-1, *split)
        for channel in range(channels):
            if not torch.equal(table[channel][bytes_[:, channel].int()], floats[:, channel]):
                return None
    return table


def _steps(table: Any, settings: Mapping[str, Any]) -> Steps:
    """Return the operations that give the table, bit by bit: those that processors do, else the table itself."""
    import torch

    channels = len(table)
    axis = -2 if channels > 1 else None
    stored = torch.arange(VALUES, dtype=torch.uint8).repeat(channels, 1)
    for steps in _usual(settings, channels):
        if torch.equal(Uint8Rule(steps=steps, channel_axis=axis).restore(stored), table):
            return steps
    return (("table", tuple(table.flatten().tolist())),)


def _usual(settings: Mapping[str, Any], channels: int) -> Iterator[Steps]:
    """Yield the arithmetic of transformers' processors, and of others, with a part's settings."""
    import torch

    factor = settings.get("rescale_factor") or 1 / (VALUES - 1)
    scale, whole = ("mul", (factor,)), ("div", (float(VALUES - 1),))
    yield (scale,)
    yield (whole,)
    mean, deviation = settings.get("image_mean"), settings.get("image_std")
    if not mean or not deviation:
        return
    # rescaling folded into the mean and the deviation, as TorchvisionBackend._fuse_mean_std_and_rescale_factor does
    fused = [(torch.tensor(numbers) * (1.0 / factor)).tolist()[:channels] for numbers in (mean, deviation)]
    yield ("sub", tuple(fused[0])), ("div", tuple(fused[1]))
    numbers = [tuple(values[:channels]) for values in (mean, deviation)]
    yield scale, ("sub", numbers[0]), ("div", numbers[1])
    yield whole, ("sub", numbers[0]), ("div", numbers[1])
