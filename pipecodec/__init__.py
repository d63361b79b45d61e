"""Any value a pipeline stage returns arrives at the next stage as the same value.

``pack`` and ``unpack`` turn nested values into tensors and back; ``Codec`` does so for one
boundary and caches frames. ``partition`` cuts a model into stages, ``partition_modules`` takes
hand-made ones; both find which values cross between stages. ``run_local`` runs them in one process,
``doctor`` reports on them, ``load_stage`` fills one with a checkpoint's values, and
``pipecodec.deepspeed`` runs them on DeepSpeed's pipeline engine, ``pipecodec.pipelining`` on
torch.distributed.pipelining (each is imported only there, and only when used).
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._check_build import check_build

__version__ = check_build()

from . import deepspeed
from .channel import Channel, broadcast
from .codec import Codec, pack, unpack
from .cutting.partition import partition
from .deepspeed import (
    DeepSpeedPipeStageWrapper,
    analyze_tie_ranks,
    deepspeed_pipe_engine,
)
from .describe import describe
from .errors import (
    CodecError,
    FrameCapacityError,
    FrameError,
    PartitionError,
    StructureChangedError,
    UnsupportedTypeError,
)
from .legacy import (
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
from .loading import load_stage, materialize_stage
from .logger import get_logger
from .registry import get_dialect, register_framework_dialect
from .report import doctor
from .stages import Partition, partition_modules, run_local
from .types import register

if TYPE_CHECKING:
    from . import pipelining

__all__ = [
    "Channel",
    "Codec",
    "CodecError",
    "DeepSpeedPipeStageWrapper",
    "FrameCapacityError",
    "FrameError",
    "Partition",
    "PartitionError",
    "StructureChangedError",
    "UnsupportedTypeError",
    "WrappedTypeCode",
    "__version__",
    "analyze_tie_ranks",
    "broadcast",
    "decode_metadata",
    "deepspeed",
    "deepspeed_pipe_engine",
    "describe",
    "doctor",
    "encode_metadata",
    "flat_and_name_tensor_list",
    "flatten",
    "get_dialect",
    "get_logger",
    "get_simple_nested_list_str",
    "load_stage",
    "materialize_stage",
    "pack",
    "partition",
    "partition_modules",
    "pipelining",
    "register",
    "register_framework_dialect",
    "run_local",
    "unflatten",
    "unpack",
    "unwrap_torch_tensor",
    "wrap_to_torch_tensor",
]


def __getattr__(name: str) -> Any:
    if name == "pipelining":
        return importlib.import_module(".pipelining", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
