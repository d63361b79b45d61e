"""A user's parameter groups, over the whole model or over a stage, on each rank.

A rank keeps its own parameters of each group. All ranks have the same groups in the same order,
since ZeRO finds the norm of one group after the other together with the other stages, and schedules
go by a group's number; a group that has no parameter on a rank gets one of one element there.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ..arguments import described, instance
from ..engine.stage_module import StageModule

__all__ = ["groups_of_this_rank"]

Group = dict[str, Any]


def groups_of_this_rank(
    stages: Sequence[StageModule],
    model: Iterable[torch.nn.Parameter],
    optimizer: Any,
    model_parameters: Any,
    lr_scheduler: Any,
) -> dict[str, Any]:
    """Return ``optimizer`` and ``model_parameters`` as ``deepspeed.initialize`` is to get them.

    A collective call, before parameters are cast. ``stages`` are those of this rank, ``model`` the
    parameters of all stages. The other arguments are those of ``deepspeed.initialize``:
    ``model_parameters`` is whatever torch's optimizers take, by default all parameters of this
    rank that require a gradient; ``optimizer`` is one, a function that makes one, or None where the
    configuration does. A function gets this rank's parameters; where a stage has none to train it
    gets those of the whole model, of which nothing is kept.

    Raises ``ValueError``, on all ranks, for a parameter that is in two groups or in no stage, and
    where ranks make different numbers of groups that cannot be brought together; the error of a
    function is raised on its rank, and a ``ValueError`` with its text on the others.
    """
    here = _Here(stages, model)
    groups: list[Group] = []
    made = optimizer
    error: Exception | None = None
    named = False
    try:
        if callable(optimizer):
            made = optimizer(here.arguments(model_parameters))
        if made is not None and not isinstance(getattr(made, "param_groups", None), list):
            must = "an optimizer, or a function of the parameters that returns one"
            raise TypeError(f"optimizer must be {must}, not {described(made)}")
        groups = here.listed(model_parameters) if made is None else made.param_groups
        named = any(isinstance(entry, tuple) for group in groups for entry in group["params"])
        for group in groups:
            here.keep_own(group)
        here.drop_state(made)
    except Exception as caught:
        error = caught
    options = [{k: v for k, v in group.items() if k not in _CONTENT} for group in groups]
    everyone: list[Any] = [None] * dist.get_world_size()
    mine = None if error is None else f"{type(error).__name__}: {error}"[:2000]
    dist.all_gather_object(everyone, (mine, [repr(each) for each in options]))
    if error is not None:
        raise error
    for rank, (failure, _) in enumerate(everyone):
        if failure is not None:
            raise ValueError(f"rank {rank} has no optimizer: {failure}")
    if len({len(keys) for _, keys in everyone}) > 1:
        groups[:] = _brought_together(groups, options, made, lr_scheduler, here)
    here.fill(groups, named)
    if made is not None:
        return {"optimizer": made, "model_parameters": here.trained}
    plain = len(groups) == 1 and not options[0]
    return {"optimizer": None, "model_parameters": groups[0]["params"] if plain else groups}


_CONTENT = ("params", "param_names")


class _Here:
    """This rank's parameters, and those of its groups."""

    def __init__(self, stages: Sequence[StageModule], model: Iterable[torch.nn.Parameter]) -> None:
        self._stages = stages
        # Stages share tied weights.
        own = dict.fromkeys(parameter for stage in stages for parameter in stage.parameters())
        self._own = set(own)
        self._anchors = [stage.anchor for stage in stages if hasattr(stage, "anchor")]
        self.trained = [parameter for parameter in own if parameter.requires_grad]
        self._model = list(dict.fromkeys(model))
        self._known = {*self._model, *own}

    def arguments(self, given: Any) -> Any:
        """Return the parameters that a function makes an optimizer of."""
        if given is None:
            own = [p for p in self.trained if not any(p is anchor for anchor in self._anchors)]
            return own or [p for p in self._model if p.requires_grad] or self.trained
        entries = _entries(given)
        if entries and isinstance(entries[0], Mapping):
            groups = self.listed(entries)
            named = any(isinstance(e, tuple) for group in groups for e in group["params"])
            for group in groups:
                self.keep_own(group)
            self.fill(groups, named)
            return groups
        return [entry for entry in entries if _parameter(entry) in self._own] or entries

    def listed(self, given: Any) -> list[Group]:
        """Return ``given`` as groups, each with a list of parameters or (name, parameter) pairs."""
        if given is None:
            return [{"params": self.trained[:]}]
        entries = _entries(given)
        if not (entries and isinstance(entries[0], Mapping)):
            return [{"params": entries}]
        groups = [{**group, "params": _entries(group["params"])} for group in entries]
        held: set[Any] = set()
        for group in groups:
            members = {_parameter(entry) for entry in group["params"]}
            if members & held:
                raise ValueError("some parameters appear in more than one parameter group")
            held |= members
        return groups

    def keep_own(self, group: Group) -> None:
        """Leave in the group the parameters that this rank has."""
        entries = group["params"]
        for entry in entries:
            if _parameter(entry) not in self._known:
                raise ValueError(
                    f"a parameter of shape {list(_parameter(entry).shape)} that the optimizer is "
                    f"to train is in no stage; give it those of the stages, or of the model that "
                    f"they hold"
                )
        kept = [place for place, entry in enumerate(entries) if _parameter(entry) in self._own]
        for content in _CONTENT:
            if content in group:
                group[content] = [group[content][place] for place in kept]

    def drop_state(self, optimizer: Any) -> None:
        """Forget the optimizer's state of other ranks' parameters."""
        state = getattr(optimizer, "state", {})
        for parameter in [p for p in state if isinstance(p, torch.Tensor) and p not in self._own]:
            del state[parameter]

    def fill(self, groups: list[Group], named: bool = False) -> None:
        """Give each group a parameter to train, and each anchor a group."""
        held = {_parameter(entry) for group in groups for entry in group["params"]}
        spare = [anchor for anchor in self._anchors if anchor not in held]
        for group in groups:
            members = [_parameter(entry) for entry in group["params"]]
            if not any(p.requires_grad and p.numel() for p in members):
                _add(group, spare.pop() if spare else self.filler(), named)
        for anchor in spare:
            _add(groups[0], anchor, named)

    def filler(self) -> torch.nn.Parameter:
        """Return a new dummy parameter, for a group without one."""
        filler = self._stages[0].add_filler()
        self._own.add(filler)
        self._known.add(filler)
        return filler


def _add(group: Group, parameter: torch.nn.Parameter, named: bool) -> None:
    if "param_names" in group:
        group["param_names"].append("of no model")
    group["params"].append(("of no model", parameter) if named else parameter)


def _brought_together(
    groups: list[Group], options: list[Group], optimizer: Any, lr_scheduler: Any, here: _Here
) -> list[Group]:
    """Return this rank's groups in an order of all ranks' groups, with those that it lacks.

    Groups are one if they have the same options. Each rank's own order is kept where it can be.
    """
    error = None
    try:
        if isinstance(lr_scheduler, torch.optim.lr_scheduler.LRScheduler):
            raise ValueError("lr_scheduler was made for this number of groups")
        mine = pickle.dumps(options)
    except Exception as caught:
        error, mine = f"{type(caught).__name__}: {caught}", b""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (mine, error, len(groups)))
    if any(error is not None for _, error, _ in everyone):
        counts = ", ".join(str(count) for _, _, count in everyone)
        reason = next(error for _, error, _ in everyone if error is not None)
        raise ValueError(
            f"ranks make different numbers of parameter groups ({counts}), which cannot be brought "
            f"together ({reason}); make the same groups on all ranks, empty where need be"
        )
    order: list[tuple[str, int]] = []
    known: dict[tuple[str, int], Group] = {}
    for packed, _, _ in everyone:
        place = 0
        for key, each in _keyed(pickle.loads(packed)):
            if key in known:
                place = max(place, order.index(key) + 1)
            else:
                known[key] = each
                order.insert(place, key)
                place += 1
    own = {key: group for (key, _), group in zip(_keyed(options), groups, strict=True)}
    named = any("param_names" in group for group in groups)
    for key in order:
        if key not in own:
            own[key] = {"params": [], **known[key]}
            _add(own[key], here.filler(), named)
            if optimizer is not None:
                optimizer.add_param_group(own[key])
                own[key] = optimizer.param_groups[-1]
    return [own[key] for key in order]


def _keyed(options: list[Group]) -> list[tuple[tuple[str, int], Group]]:
    """Pair each group's options with a key: their text, and how often it came before."""
    seen: dict[str, int] = {}
    keyed = []
    for each in options:
        text = repr(sorted(each.items(), key=lambda item: item[0]))
        seen[text] = seen.get(text, -1) + 1
        keyed.append(((text, seen[text]), each))
    return keyed


def _entries(given: Any) -> list[Any]:
    """Return the entries of parameters or groups; ``TypeError`` if they are neither."""
    must = "parameters, (name, parameter) pairs or groups of them"
    if isinstance(given, torch.Tensor):
        return [given]
    instance("model_parameters", given, Iterable, must)
    entries = list(given)
    for entry in entries:
        instance("model_parameters", _parameter(entry), (torch.Tensor, Mapping), must)
    return entries


def _parameter(entry: Any) -> Any:
    """Return an entry's parameter; torch's optimizers take it alone or with its name."""
    return entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
