"""Imported once by the forkserver: what every worker of a run with a processor starts with in memory."""

import os

from vlm_prep.core.errors import VlmPrepError
from vlm_prep.processors.preload import transformers
from vlm_prep.tokenize import recipe

text = os.environ.pop(recipe.VARIABLE, None)
if text is not None:
    try:
        recipe.make_ready(text)
    except VlmPrepError as error:
        # the one kind of error that the forkserver passes over; a worker meets the fault again, and the user is told
        raise ImportError(error.message) from error

__all__ = ["transformers"]
