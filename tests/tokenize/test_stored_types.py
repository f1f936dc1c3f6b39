"""The types of stored tensors are names out of a shard: what is no type is an error in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlm_prep.core.errors import StoreError
from vlm_prep.processors.payload.join import whole_mask
from vlm_prep.processors.payload.stored import Stored, array_of, store_tensor


@pytest.mark.parametrize(
    "dtype", ["uinu8", "uint:", "u)nt8", "", "save", "Tensor", "uint", "object", "U", "V", "__doc__"]
)
def test_a_name_that_is_no_type_is_an_error_in_words(dtype: str) -> None:
    tensor = {"name": "pixel_values", "dtype": dtype, "shape": [4], "data": np.zeros(4, np.uint8), "coded": False}
    with pytest.raises(StoreError):
        array_of(tensor)
    if dtype != "object":
        with pytest.raises(StoreError, match="no type of a tensor"):
            whole_mask((1, 4), dtype)


def test_types_that_numpy_lacks_come_back() -> None:
    tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    form = store_tensor("x", tensor)
    assert torch.equal(Stored(array_of(form), None, form["dtype"]).restored(), tensor)
