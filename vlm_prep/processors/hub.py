"""Whether the Hugging Face hub answers, found out before transformers asks it file by file with retries in silence."""

from __future__ import annotations

import logging
import os

from vlm_prep.core.errors import ProcessorError

SECONDS = 5.0
"""To wait for an answer; transformers' own retries take minutes."""
_LOG = logging.getLogger(__name__)


def ask_hub(name: str) -> bool:
    """Say which processor the hub is asked for, and return whether only the local cache can be read.

    Args:
        name: a Hugging Face id.

    Raises:
        ProcessorError: no processor of the hub can have that name; or the hub does not answer, and the cache of this
            machine holds nothing of that name.
    """
    from huggingface_hub import constants, get_session, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        what = f"cannot load the processor {name}: there is no such folder, and the hub has no such names"
        raise ProcessorError(what, "give a folder, or owner/name as the hub has it, without a revision") from error
    if constants.HF_HUB_OFFLINE:
        return True
    url = f"{constants.ENDPOINT}/{name}/resolve/main/tokenizer_config.json"
    _LOG.info("asking %s for the processor %s", constants.ENDPOINT, name)
    try:
        get_session().head(url, timeout=SECONDS)
    except Exception as error:  # requests' or httpx's, by the version of huggingface_hub: no route, no name, a proxy
        names = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "config.json")
        if any(isinstance(try_to_load_from_cache(name, each), str) for each in names):
            _LOG.info("%s does not answer: %s is read from the cache of this machine", constants.ENDPOINT, name)
            return True
        first = (str(error).strip().splitlines() or [""])[0][:200]
        hint = "give the folder of a processor that was downloaded elsewhere, or set HF_ENDPOINT to a mirror"
        if not os.path.isdir(name.partition("/")[0]):
            hint += "; a folder of this name is not here either"
        raise ProcessorError(
            f"cannot load the processor {name}: {constants.ENDPOINT} does not answer "
            f"({type(error).__name__}: {first}), and it is not in the cache of this machine",
            hint,
        ) from error
    return False
