"""Commands killed at each of their calls of some functions, one after the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path


def killed(number: int, when: str, work: Callable[[], object], place: object, names: tuple[str, ...]) -> bool:
    """Run `work` in a forked process that kills itself before, after or in the middle of its n-th call of `names`."""
    child = os.fork()
    if child == 0:
        seen = 0
        changed: set[object] = set()

        def dying(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **settings: object) -> object:
                nonlocal seen
                target = arguments[-1] if arguments else None
                seen += not (str(target).endswith("progress.json") and target in changed)  # written as time goes by
                changed.add(target)
                if seen == number and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return real(*arguments, **settings)
                finally:
                    if seen == number and when == "in":
                        os.truncate(str(arguments[-1]), os.path.getsize(str(arguments[-1])) // 2)
                    if seen == number:
                        os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name in names:
            setattr(place, name, dying(getattr(place, name)))
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def deaths(
    work: Callable[[Path], object], base: Path, when: str, place: object, names: tuple[str, ...]
) -> Iterator[Path]:
    """Yield a target for each call, killed at it and not done again yet."""
    number, out = 1, base / "1"
    while killed(number, when, partial(work, out), place, names):
        yield out
        number += 1
        out = base / f"{number}"
