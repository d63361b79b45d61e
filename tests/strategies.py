"""Values for hypothesis: anything a frame can hold, nested."""

from __future__ import annotations

import collections
import struct

import torch
from hypothesis import strategies as st

from tests.corpus import Colour, Frozen, Level, Output, Pair, Point, Slotted

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**80), 2**80),
    st.binary(min_size=8, max_size=8).map(lambda b: struct.unpack("<d", b)[0]),
    st.complex_numbers(),
    st.text(),
    st.binary(max_size=20),
    st.sampled_from(
        [*Colour, *Level, torch.float16, torch.uint32, torch.device("cuda:3"), torch.Size([2, 0])]
    ),
    st.slices(10),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
)

hashables = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(max_size=9),
        st.sampled_from([*Colour]),
    ),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)

_leaves = [
    torch.zeros(shape, dtype=dtype)
    for shape in [(), (3,), (2, 0), (2, 1, 4)]
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool)
]
_leaves += [torch.ones(2, requires_grad=True), torch.arange(6.0).reshape(2, 3).t()]

tensors = st.sampled_from(_leaves)


def containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Return a strategy for one more container around ``inner``."""
    pairs = st.dictionaries(hashables, inner, max_size=4)
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        pairs,
        pairs.map(collections.OrderedDict),
        pairs.map(lambda d: collections.defaultdict(dict, d)),
        st.lists(inner, max_size=4).map(lambda x: collections.deque(x, 7)),
        st.sets(hashables, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Output, inner, inner),
        st.builds(Frozen, inner),
        st.builds(Slotted, inner),
        st.builds(Pair, inner, inner, hashables),
    )


values = st.recursive(st.one_of(scalars, tensors), containers, max_leaves=20)
