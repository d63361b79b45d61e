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

check_build()

from . import deepspeed  # noqa: E402
from .codec import Codec, pack, unpack  # noqa: E402
from .cutting.partition import partition  # noqa: E402
from .deepspeed import (  # noqa: E402
    DeepSpeedPipeStageWrapper,
    analyze_tie_ranks,
    deepspeed_pipe_engine,
)
from .describe import describe  # noqa: E402
from .errors import (  # noqa: E402
    CodecError,
    FrameCapacityError,
    FrameError,
    PartitionError,
    StructureChangedError,
    UnsupportedTypeError,
)
from .legacy import (  # noqa: E402
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
from .loading import load_stage, materialize_stage  # noqa: E402
from .logger import get_logger  # noqa: E402
from .registry import get_dialect, register_framework_dialect  # noqa: E402
from .report import doctor  # noqa: E402
from .stages import Partition, partition_modules, run_local  # noqa: E402
from .types import register  # noqa: E402

if TYPE_CHECKING:
    from . import pipelining

__all__ = [
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
    "analyze_tie_ranks",
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
