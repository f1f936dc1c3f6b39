"""Imported once by the forkserver: what every worker of a run with a processor starts with in memory."""

import os

from vlm_prep.processors.preload import transformers
from vlm_prep.tokenize import recipe

text = os.environ.pop(recipe.VARIABLE, None)
if text is not None:
    try:
        recipe.make_ready(text)
    except Exception as error:
        # whatever it is, a worker meets it again and the user is told; the forkserver passes over ImportError alone
        raise ImportError(f"{type(error).__name__}: {error}") from error

from vlm_prep.tokenize import tokenize_job  # noqa: E402 - behind what takes longest

__all__ = ["tokenize_job", "transformers"]
