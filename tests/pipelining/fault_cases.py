"""Errors of one rank in a step, and calls that the other ranks do not make."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.pipelining.schedules import ScheduleInterleavedZeroBubble

from pipecodec import pipelining
from pipecodec.demo.launch import Rank

from .faults import Cases, Here, run_cases
from .planted import LEFT_OUT, Last, LastWithoutIds, Training, fail, mse, partition, stage_numbers

ERRORS = case = Cases()
PLANTED = "^ArithmeticError: planted$"
TOLD = r"^RemoteError: rank \d, stage \d: ArithmeticError: planted"


def trained(here: Here, **options: Any) -> Training:
    training = Training(here, **options)
    training.step()
    return training


def counted(number: int, act: Any) -> Any:
    """Return a function that calls ``act`` when it is called the ``number``-th time."""
    left = [number]

    def count(*args: Any) -> Any:
        left[0] -= 1
        return act(*args) if left[0] == 0 else None

    return count


@case("forward, first step", 1, PLANTED, TOLD)
def _(here: Here) -> None:
    training = Training(here)
    if here.fault:
        training.modules[-1].in_forward = fail
    training.step()


@case("forward, later step", "last", PLANTED, TOLD)
def _(here: Here) -> None:
    training = trained(here)
    if here.fault:
        training.modules[0].in_forward = counted(3, fail)
    training.step()


@case("forward, evaluation", 1, PLANTED, TOLD)
def _(here: Here) -> None:
    training = Training(here)
    training.eval()
    if here.fault:
        training.modules[-1].in_forward = fail
    training.eval()
    training.step()


@case("backward, first step", 1, PLANTED, TOLD)
def _(here: Here) -> None:
    training = Training(here)
    if here.fault:
        training.modules[-1].in_backward = fail
    training.step()


@case("last backward of a later step", 0, PLANTED, TOLD)
def _(here: Here) -> None:
    training = trained(here)
    if here.fault:
        training.modules[0].in_backward = counted(2 * here.world, fail)
    training.step()
    raise AssertionError("this rank would step")


@case("interrupt", 1, "^KeyboardInterrupt: planted", r"^RemoteError: rank 1, stage \d: KeyboardI")
def _(here: Here) -> None:
    training = trained(here)

    def interrupt() -> None:
        raise KeyboardInterrupt("planted")

    if here.fault:
        training.modules[-1].in_forward = counted(2, interrupt)
    training.step()


@case("loss function", "last", PLANTED, TOLD)
def _(here: Here) -> None:
    Training(here, loss_fn=lambda *_: fail()).step()


for _name, _loss, _found in [
    ("loss: an int", lambda *_: 3, "is a int"),
    ("loss: None", lambda *_: None, "is a NoneType"),
    ("loss: a vector", lambda out, target: (out["y"] - target).sum(1), r"has shape \[\d\]"),
]:

    @case(_name, "last", f"^ValueError: the loss {_found}", f"ValueError: the loss {_found}")
    def _(here: Here, loss: Any = _loss) -> None:
        Training(here, loss_fn=loss).step()


@case("loss without gradients", "last", "does not require grad", "does not require grad")
def _(here: Here) -> None:
    trained(here, loss_fn=lambda out, target: mse(out, target).detach()).step()


@case("bare loss_fn", "last", "^ValueError: the schedule's loss_fn is not tied", "loss_fn is not t")
def _(here: Here) -> None:
    Training(here, wrapped=not here.fault).step()


@case("output_merge_spec", "last", "^ValueError: output_merge_spec has no say", "output_merge_spec")
def _(here: Here) -> None:
    training = Training(here)
    if here.fault:
        training.schedule._output_merge_spec = {}
    training.step()


@case("no target, first step", "last", "^ValueError: the rank of the last stage", "pass target=")
def _(here: Here) -> None:
    Training(here).step(**({"target": LEFT_OUT} if here.fault else {}))


@case("no target, evaluation", "last", "^ValueError: the rank of the last stage", "pass target=")
def _(here: Here) -> None:
    trained(here).eval(**({"target": LEFT_OUT} if here.fault else {}))


@case("missing input", "first", "'x'", "'x'")
def _(here: Here) -> None:
    Training(here).step(**({"x": LEFT_OUT} if here.fault else {}))


@case("missing input that a later stage uses", "last", "scale", "scale")
def _(here: Here) -> None:
    Training(here).step(scale=LEFT_OUT)


@case("unknown input", "first", "'y'", "'y'")
def _(here: Here) -> None:
    trained(here).step(**({"y": 3} if here.fault else {}))


@case("small batch, first step", "first", "x.*3", "x.*3")
def _(here: Here) -> None:
    Training(here).step(3 if here.fault else 12)


@case("small batch of all, later step", "first", "x.*3", "3")
def _(here: Here) -> None:
    trained(here).step(3)


@case("small target", "last", "target", "target")
def _(here: Here) -> None:
    trained(here).eval(**({"target": torch.zeros(2, 4)} if here.fault else {}))


@case("input without dimensions", "first", "scale.*whole", "scale.*whole")
def _(here: Here) -> None:
    Training(here).step(**({"scale": torch.tensor(0.5)} if here.fault else {}))


@case("inputs of other first dimensions", "first", "ids.*whole", "ids.*whole")
def _(here: Here) -> None:
    trained(here).step(**({"ids": torch.arange(24)} if here.fault else {}))


@case("unsupported type", 1, r"x\[1\].*object", r"RemoteError.*x\[1\]")
def _(here: Here) -> None:
    training = Training(here)
    if here.fault:
        training.modules[0].change = lambda x: [x, object()]
    training.step()


@case("sizes change", "first", "x.*dynamic_shape=True", "x.*dynamic_shape=True")
def _(here: Here) -> None:
    training = trained(here)
    training.step(12)
    training.step(24)


@case("number of tensors changes", 1, "x.*dynamic_shape=True", "x.*dynamic_shape=True")
def _(here: Here) -> None:
    training = trained(here)
    if here.fault:
        training.modules[0].change = lambda x: [x, x + 1]
    training.step()


@case("frame outgrows its size", 1, "capacity", "capacity")
def _(here: Here) -> None:
    training = trained(here)
    if here.fault:
        training.modules[0].change = lambda x: [x, "long" * 5000]
    training.step()


@case("step and eval", 1, "different calls", "different calls")
def _(here: Here) -> None:
    training = trained(here)
    training.eval() if here.fault else training.step()


@case("eval and step", 0, "different calls", "different calls")
def _(here: Here) -> None:
    training = trained(here)
    training.step() if here.fault else training.eval()


@case("number of micro-batches", 1, "different calls", "different calls")
def _(here: Here) -> None:
    Training(here, micro_batches=(3 if here.fault else 4) * here.world).step()


@case("other schedule", 1, "different calls|build the stages where", "different calls")
def _(here: Here) -> None:
    two = here.layout in ("zbv", "interleaved")
    other = ScheduleInterleavedZeroBubble if two else ScheduleGPipe
    Training(here, schedule=other if here.fault else None, numbers=stage_numbers(here)).step()


@case("clip_grad_norm_ alone", 1, "different calls", "different calls")
def _(here: Here) -> None:
    training = trained(here)
    if here.fault:
        pipelining.clip_grad_norm_(training.stages, 1.0)
    training.step()


@case("one step more (stall_timeout=1)", 1, r"rank \d did not come to .*step", "^$")
def _(here: Here) -> None:
    training = trained(here, stall_timeout=1)
    if here.fault:
        training.step()


@case("no_grad, first step", 1, "requires gradients to be enabled", "requires gradients")
def _(here: Here) -> None:
    training = Training(here)
    with torch.set_grad_enabled(not here.fault):
        training.step()


@case("another number of stages", 1, "ranks differ in", "ranks differ in")
def _(here: Here) -> None:
    if here.layout in ("1f1b", "gpipe"):
        Training(here, part=partition(here.world + here.fault)).step()
    else:
        raise ValueError("ranks differ in: such a schedule cannot be made")


@case("other values cross", 1, "ranks differ in the values that", "ranks differ in the values that")
def _(here: Here) -> None:
    count = len(stage_numbers(here)) * here.world
    Training(here, part=partition(count, LastWithoutIds if here.fault else Last)).step()


@case("option", 1, "ranks differ in dynamic_shape", "ranks differ in dynamic_shape")
def _(here: Here) -> None:
    Training(here, dynamic_shape=here.fault).step()


@case("stage built on two ranks", 1, "was built on", "was built on")
def _(here: Here) -> None:
    numbers = stage_numbers(here)
    if here.fault:
        numbers = [number - 1 for number in numbers]
    Training(here, numbers=numbers).step()


@case("stages placed elsewhere", 1, "build the stages where the schedule", "build the stages where")
def _(here: Here) -> None:
    n = here.world
    numbers = [(k + 1) % n + k // n * n for k in stage_numbers(here)]
    Training(here, numbers=numbers).step()


@case("a torch stage among them", 1, "stage . is a PipelineStage", "stage . is a PipelineStage")
def _(here: Here) -> None:
    training = Training(here)
    stages, cls = list(training.stages), type(training.schedule)
    if here.fault:
        number, count = stages[-1].stage_index, len(training.part.stages)
        stages[-1] = PipelineStage(nn.Linear(4, 4), number, count, torch.device("cpu"))
    training.schedule = cls(stages, 2 * here.world, loss_fn=pipelining.loss(mse))
    training.step()


@case(
    "some of the stages", 1, "this rank has the stages|pipeline", "this rank has|different|RemoteE"
)
def _(here: Here) -> None:
    training = trained(here)
    given = training.stages[:1] if here.fault else training.stages
    if len(training.stages) == 1:
        given = training.stages * 2 if here.fault else training.stages
    pipelining.sum_tied_gradients(given)
    training.step()


@case("recovered: settings differ", 1, "^$", "^$")
def _(here: Here) -> None:
    training = Training(here, dynamic_shape=here.fault)
    for _ in range(2):
        try:
            training.step()
        except ValueError as error:
            assert "ranks differ in dynamic_shape" in str(error)
        else:
            raise AssertionError("trained")
    trained(here).eval()


@case("recovered: no gradients", 1, "^$", "^$")
def _(here: Here) -> None:
    training = Training(here)
    for _ in range(2):
        try:
            with torch.no_grad():
                training.step()
        except RuntimeError as error:
            assert "requires gradients" in str(error)
        else:
            raise AssertionError("trained")
        training.step()
        training.eval()


@case("dynamic sizes", 1, "^$", "^$")
def _(here: Here) -> None:
    training = Training(here, dynamic_shape=True)
    for samples in 12, 24, 18:
        training.step(samples)
        training.eval(samples + 1)


def run_errors(rank: Rank, *args: Any) -> dict[str, tuple[str, float]]:
    return run_cases(rank, ERRORS, *args)
