"""Names of the file this project grew out of, under which others may import them."""

from __future__ import annotations

from .flattening import (
    WrappedTypeCode,
    decode_metadata,
    encode_metadata,
    flat_and_name_tensor_list,
    flatten,
    get_simple_nested_list_str,
    unflatten,
    unwrap_torch_tensor,
    wrap_to_torch_tensor,
)

__all__ = [
    "WrappedTypeCode",
    "decode_metadata",
    "encode_metadata",
    "flat_and_name_tensor_list",
    "flatten",
    "get_simple_nested_list_str",
    "unflatten",
    "unwrap_torch_tensor",
    "wrap_to_torch_tensor",
]
