"""How a stage runs, as the library takes it; the command line's settings of it are `core.run_settings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlm_prep.core.run_settings import Engine
from vlm_prep.engine.array_parts import Part
from vlm_prep.engine.events import Events
from vlm_prep.engine.local import Limits

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a stage runs; none of it changes what is written."""

    out: Path
    workers: int = 1
    """Supervised processes; 0 does everything in this one, where a row that crashes ends the run (for debuggers)."""
    engine: Engine = "local"
    """Whose processes: this machine's, or those of a Ray cluster."""
    ray_address: str | None = None
    """Of the cluster; None starts one on this machine."""
    sample_timeout: float = Limits.sample_timeout
    """Seconds after which a row that is still worked on is rejected."""
    worker_memory: int = Limits.worker_memory
    """Bytes of memory of a worker past which its row is rejected."""
    fresh: bool = False
    part: Part | None = None
    """The part of the tasks to do, see `engine.array_parts`; None for all."""
    progress: bool | None = None
    """Show a progress bar; None shows it on a terminal only."""
    max_reject_rate: float = 0.05
    """Largest share of rejected rows that still counts as success."""
    say: Say = print
    events: Events = Events()  # noqa: RUF009 - frozen
    """Told of what happens, for dashboards."""

    def __post_init__(self) -> None:
        """Take `out` as text, too, as people write it."""
        object.__setattr__(self, "out", Path(self.out))
