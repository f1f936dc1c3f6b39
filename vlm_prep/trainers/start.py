"""Start another trainer's command where torchvision's wheel does not import by itself, beside a CPU build of torch.

python -m vlm_prep.trainers.start llamafactory-cli train recipe.yaml
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points

from vlm_prep.core.errors import InputError, VlmPrepError
from vlm_prep.processors.torchvision_cpu import ensure_torchvision


def start(words: list[str]) -> None:
    """Run an installed command in this process, after `ensure_torchvision()`.

    Args:
        words: the command's name, and its arguments.

    Raises:
        InputError: no installed package has such a command.
    """
    found = [each for each in entry_points(group="console_scripts") if words and each.name == words[0]]
    if not found:
        raise InputError(
            f"no package that is installed here has the command {words[0] if words else '(none is given)'!r}",
            "python -m vlm_prep.trainers.start COMMAND ..., with the python of the trainer's environment",
        )
    told = ensure_torchvision()
    if told is not None:
        logging.getLogger(__name__).warning(told)
    sys.argv = words
    sys.exit(found[0].load()())


if __name__ == "__main__":
    try:
        start(sys.argv[1:])
    except VlmPrepError as error:
        sys.exit(str(error))
