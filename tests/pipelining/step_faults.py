"""Errors of one rank in a step, in its batch, and in the values that it sends."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate

from .faults import Cases, Here
from .planted import LEFT_OUT, Training, counted, fail, mse, trained

__all__ = ["STEPS"]

STEPS = case = Cases()
PLANTED = "^ArithmeticError: planted$"
TOLD = r"^RemoteError: rank \d, stage \d: ArithmeticError: planted"


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


@case("gradient of a weight", 1, PLANTED, TOLD)
def _(here: Here) -> None:
    """Some schedules make it after the gradients that they send."""
    training = trained(here)
    if here.fault:
        training.modules[0].linear.weight.register_hook(counted(3, fail))
    training.step()


@case(
    "error of a file that also communicates",
    1,
    "mixed torch.Tensor",
    "stage 1: RuntimeError: .*mix",
)
def _(here: Here) -> None:
    training = trained(here)
    if here.fault:
        mesh = DeviceMesh("cpu", [here.rank], _init_backend=False)
        mixed = DTensor.from_local(torch.ones(4), mesh, [Replicate()], run_check=False)
        training.modules[0].in_forward = lambda: torch.ones(4) + mixed
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


@case("loss without gradients", "last", "does not require grad", "does not require grad")
def _(here: Here) -> None:
    trained(here, loss_fn=lambda out, target: mse(out, target).detach()).step()


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
    Training(here).step(3 if here.fault else 24)


@case("unsupported type", 1, r"x\[1\].*object", r"RemoteError.*x\[1\]")
def _(here: Here) -> None:
    training = Training(here)
    if here.fault:
        training.modules[0].change = lambda x: [x, object()]
    training.step()


@case("sizes change", "first", "x.*dynamic_shape=True", "x.*dynamic_shape=True")
def _(here: Here) -> None:
    training = trained(here)
    training.step()
    training.step(48)


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


@case("no_grad, first step", 1, "requires gradients to be enabled", "requires gradients")
def _(here: Here) -> None:
    training = Training(here)
    with torch.set_grad_enabled(not here.fault):
        training.step()


@case("loss: an int", "last", "^ValueError: the loss is a int", "ValueError: the loss is a int")
def _(here: Here) -> None:
    Training(here, loss_fn=lambda *_: 3).step()


@case(
    "input on a rank that is not the first", 1, "", "first stage was not: the model's inputs go in"
)
def _(here: Here) -> None:
    trained(here).step(scale=0.5 if here.fault else LEFT_OUT)


@case("the whole batch on all ranks", 1, "^$", "^$")
def _(here: Here) -> None:
    training = Training(here)
    training.first = training.last = True
    training.step()
    training.eval()
