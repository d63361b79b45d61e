"""Replaces methods of one DeepSpeed engine, each once.

A batch runs in this order; the lists are those of :class:`Hooks`, "stock" is the engine's own
method. ``setup.py`` has the actions of each list, in their order::

    engine.train_batch                      engine.eval_batch
      within call                             within call, evaluation, evaluating
      arguments                               arguments
      before_batch                            before_batch
      stock                                   stock
        engine._exec_schedule                   engine._exec_schedule
          before_schedule
          stock                                 schedule_failed, if it raises
            for each instruction:
              before
              stock, or instead                 failed, if it raises
              after
          after_schedule
      after_step
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from .outputs import Evaluation

__all__ = ["Action", "Actions", "Around", "Hooks", "install"]

Action = Callable[..., Any]
Actions = Sequence[Action | None]
"""Actions in their order; None where an engine needs none."""


@dataclass(frozen=True)
class Around:
    """Actions before an instruction, after it returned and after it raised; all get its arguments.

    ``instead`` replaces the engine's own method.
    """

    before: Actions = ()
    instead: Action | None = None
    after: Actions = ()
    failed: Actions = ()


@dataclass(frozen=True)
class Hooks:
    """Actions of an engine beside its own methods.

    ``call(name, args, kwargs)`` gives the context of a method that all ranks call: those of
    batches, of the reset and of checkpoints. ``arguments(args, kwargs)`` raises for those of a
    batch that it could not be run with. ``evaluation(args, kwargs)`` and ``evaluating()`` give
    those of ``eval_batch``. ``before_batch`` gets the name of the method, other lists get nothing.
    ``reset`` follows the engine's own reset. ``instructions`` are those of DeepSpeed's schedules.
    ``save_checkpoint``, ``load_checkpoint`` and ``clip_fp32_gradients`` take the place of methods
    of their names, which they call themselves. ``sizes`` are a function that takes the place of
    ``_recv_tensor_meta``, and one that takes that of ``_send_tensor_meta``.
    """

    call: Callable[[str, tuple[Any, ...], dict[str, Any]], AbstractContextManager[None]]
    arguments: Callable[[tuple[Any, ...], dict[str, Any]], None]
    evaluation: Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[Evaluation]]
    evaluating: Callable[[], AbstractContextManager[None]]
    before_batch: Actions
    after_step: Actions
    reset: Actions
    before_schedule: Actions
    after_schedule: Actions
    schedule_failed: Actions
    instructions: Mapping[type, Around]
    save_checkpoint: Action
    load_checkpoint: Action
    clip_fp32_gradients: Action | None
    sizes: tuple[Action, Action] | None


def install(engine: Any, hooks: Hooks) -> None:
    """Replace methods of this engine, and of no other. To be called once."""
    _replace_batches(engine, hooks)
    _replace_schedule(engine, hooks)
    _replace_checkpoints(engine, hooks)
    stock = engine._INSTRUCTION_MAP
    engine._INSTRUCTION_MAP = {
        **stock,
        **{
            kind: _instruction(stock[kind], each)
            for kind, each in hooks.instructions.items()
            if each.instead or any((*each.before, *each.after, *each.failed))
        },
    }
    if hooks.sizes is not None:
        engine._recv_tensor_meta, engine._send_tensor_meta = hooks.sizes
    if hooks.clip_fp32_gradients is not None:
        engine.clip_fp32_gradients = hooks.clip_fp32_gradients


def _replace_batches(engine: Any, hooks: Hooks) -> None:
    train, evaluate, forget = engine.train_batch, engine.eval_batch, engine.reset_activation_shape
    before_batch, after_step = _needed(hooks.before_batch), _needed(hooks.after_step)
    reset = _needed(hooks.reset)

    @functools.wraps(train)
    def train_batch(*args: Any, **kwargs: Any) -> Any:
        with hooks.call("train_batch", args, kwargs):
            hooks.arguments(args, kwargs)
            for action in before_batch:
                action("train_batch")
            loss = train(*args, **kwargs)
            for action in after_step:
                action()
            return loss

    @functools.wraps(evaluate)
    def eval_batch(*args: Any, **kwargs: Any) -> Any:
        with (
            hooks.call("eval_batch", args, kwargs),
            hooks.evaluation(args, kwargs) as evaluation,
            hooks.evaluating(),
        ):
            hooks.arguments(args, kwargs)
            for action in before_batch:
                action("eval_batch")
            return evaluation.result(evaluate(**evaluation.given))

    @functools.wraps(forget)
    def reset_activation_shape(*args: Any, **kwargs: Any) -> None:
        with hooks.call("reset_activation_shape", args, kwargs):
            forget(*args, **kwargs)
            for action in reset:
                action()

    engine.train_batch = train_batch
    engine.eval_batch = eval_batch
    engine.reset_activation_shape = reset_activation_shape


def _replace_schedule(engine: Any, hooks: Hooks) -> None:
    run_schedule = engine._exec_schedule
    before, after = _needed(hooks.before_schedule), _needed(hooks.after_schedule)
    failed = _needed(hooks.schedule_failed)

    @functools.wraps(run_schedule)
    def _exec_schedule(steps: Any) -> None:
        for action in before:
            action()
        try:
            run_schedule(steps)
        except BaseException:
            for action in failed:
                action()
            raise
        for action in after:
            action()

    engine._exec_schedule = _exec_schedule


def _replace_checkpoints(engine: Any, hooks: Hooks) -> None:
    @functools.wraps(hooks.save_checkpoint)
    def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
        with hooks.call("save_checkpoint", args, kwargs):
            return hooks.save_checkpoint(*args, **kwargs)

    @functools.wraps(hooks.load_checkpoint)
    def load_checkpoint(*args: Any, **kwargs: Any) -> Any:
        with hooks.call("load_checkpoint", args, kwargs):
            return hooks.load_checkpoint(*args, **kwargs)

    engine.save_checkpoint = save_checkpoint
    engine.load_checkpoint = load_checkpoint


def _instruction(stock: Action, around: Around) -> Action:
    """Return a function of the engine and an instruction's arguments, as ``stock`` is."""
    before, after, failed = _needed(around.before), _needed(around.after), _needed(around.failed)
    instead = around.instead

    @functools.wraps(stock)
    def instruction(engine: Any, *args: Any, **kwargs: Any) -> None:
        for action in before:
            action(*args, **kwargs)
        try:
            if instead is None:
                stock(engine, *args, **kwargs)
            else:
                instead(*args, **kwargs)
        except BaseException:
            for action in failed:
                action(*args, **kwargs)
            raise
        for action in after:
            action(*args, **kwargs)

    return instruction


def _needed(actions: Actions) -> tuple[Action, ...]:
    return tuple(action for action in actions if action is not None)
