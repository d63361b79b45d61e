"""torch's private names that the stages replace and use are there, with the same parameters.

Where a torch moves one of them, this fails and says which; all else would fail or, worse, be no
longer called.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from torch.distributed import pipelining
from torch.distributed.pipelining import PipelineStage, _backward, schedules, stage

import pipecodec
from pipecodec.pipelining import build
from pipecodec.pipelining.torch_stage import CodecStage

OWN = {"connect", "start", "_call", "_backward", "_op", "_receive_ops", "_memory", "_receive_late"}
"""Methods of CodecStage that torch knows nothing of."""

REPLACED = [name for name, each in vars(CodecStage).items() if inspect.isfunction(each)]
REPLACED = [name for name in REPLACED if name not in OWN and name != "__init__"]

CALLED_BY_STAGES = {"_retrieve_recv_grads", "backward_maybe_with_nosync"}
"""Methods that torch's stage calls itself, and not its schedules."""

RUNTIME = inspect.getsource(schedules)
STAGE = inspect.getsource(stage)


def test_there_are_such_methods() -> None:
    assert len(REPLACED) > 12


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_method_is_torchs_and_has_its_parameters(name: str) -> None:
    theirs = list(inspect.signature(getattr(PipelineStage, name)).parameters)
    ours = inspect.signature(getattr(CodecStage, name)).parameters
    if not any(each.kind is each.VAR_POSITIONAL for each in ours.values()):
        assert theirs[: len(ours)] == list(ours)


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_method_is_called(name: str) -> None:
    caller = STAGE if name in CALLED_BY_STAGES else RUNTIME
    assert re.search(rf"\.{name}\(", caller)


def test_a_schedule_that_is_made_knows_its_stages_before_it_asks_them() -> None:
    single = inspect.getsource(schedules.PipelineScheduleSingle.__init__)
    assert single.index("self._stage = stage") < single.index("stage.num_stages")
    several = inspect.getsource(schedules.PipelineScheduleMulti.__init__)
    assigned = several.index("self._stages = stages")
    assert assigned < several.index("stages[0].num_stages")
    assert assigned < several.index("stage.stage_index_to_group_rank = ")


@pytest.mark.parametrize("schedule", ["PipelineScheduleSingle", "PipelineScheduleMulti"])
def test_a_step_calls_the_replaced_methods_of_the_schedule(schedule: str) -> None:
    step = inspect.getsource(getattr(schedules, schedule).step)
    assert "stage.has_backward = self._has_backward" in step
    assert "self._step_microbatches(" in step
    assert "self._merge_outputs(" in step
    assert "self.step(" in inspect.getsource(schedules._PipelineSchedule.eval)


OF_SCHEDULES = (
    "_stage _stages _loss_fn _n_microbatches _has_backward _output_merge_spec _args_chunk_spec "
    "_kwargs_chunk_spec"
)
NEW = hasattr(PipelineStage, "_make_forward_chunk_state")  # torch 2.15
OF_STAGES = (
    "_has_backward _stage_meta _user_meta _runtime_validate _resolve_peer_global_rank "
    "_is_same_rank args_recv_info act_send_info grad_recv_info bwd_cache output_chunks chunks "
    "stage_index_to_group_rank submod group device "
    + ("_forward_chunk_states _make_forward_chunk_state _get_p2p_group" if NEW else "fwd_cache")
)
USED = [
    *((schedules, name) for name in OF_SCHEDULES.split()),
    *((stage, name) for name in OF_STAGES.split()),
]


@pytest.mark.parametrize(("module", "name"), USED)
def test_an_attribute_is_torchs(module: Any, name: str) -> None:
    assert re.search(rf"\.{name}\b", inspect.getsource(module))


def test_torch_wraps_errors_of_a_backward_pass_in_these_words() -> None:
    assert inspect.getsource(_backward.stage_backward).count("Failed to run stage backward") == 1
    assert "Failed to run stage backward input" in inspect.getsource(_backward.stage_backward_input)


def test_it_is_loaded_at_first_use() -> None:
    assert pipecodec.pipelining.build_stage is build.build_stage
    assert issubclass(CodecStage, pipelining.PipelineStage)


def test_an_older_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.12.1+cpu")
    part = pipecodec.partition_modules([torch.nn.Linear(2, 2)])
    with pytest.raises(RuntimeError, match=r"needs torch 2\.13 or newer, this is 2\.12\.1"):
        pipecodec.pipelining.build_stage(part, 0)
