"""Processors whose labels are looked at, and what encoding a row gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vlm_prep.core.errors import Reject

END = "<|im_end|>"
Make = Callable[..., Any]


def reason(encode: Callable[[], object]) -> str:
    with pytest.raises(Reject) as caught:
        encode()
    return caught.value.reason.value


def outcome(encode: Callable[[], Any]) -> Any:
    try:
        return encode()
    except Reject as reject:
        return reject.reason.value
