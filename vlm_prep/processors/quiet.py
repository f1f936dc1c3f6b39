"""transformers without its words while a processor loads, and as loud as before afterwards.

The process may be a user's training script: what it set of transformers' and the hub's logging is its own. Our own
processes (the command, workers) are told by their environment, see `core.own_process`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers and huggingface_hub report errors alone, without progress bars, for a while."""
    import transformers

    library = transformers.utils.logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    # its retries against a hub that cannot be reached would bury the one message that counts
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    library.set_verbosity_error()
    library.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
        hub.setLevel(level)
