"""Names the values of one pipeline stage, for any engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from .liveness import Arg, OptionalArg, arg_name

__all__ = ["Absent", "Stage", "bind_inputs", "canonical_names", "check_no_whole_batch", "look_up"]

_CANONICAL = re.compile(r"submod_\d+(\.|@|$)")  # an @ begins the mark of an entry

_GIVE_IT = "; give it in every batch, or partition a batch without it in examples= first"

_NAME_IT = (
    "leave it out, give partition a batch that has it, as kwargs= or in examples=, or name it in "
    "inputs= of partition_modules"
)


class Absent(Enum):
    """Stands at a boundary for an optional value that nobody gave."""

    ABSENT = 0


def bind_inputs(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the model's inputs in the order of `names`; one that is not given is ABSENT.

    Raises TypeError for too many arguments, an unknown name, or one given twice.
    """
    if len(args) > len(names):
        raise TypeError(f"{len(args)} inputs are given, but the model takes {list(names)}")
    if len(args) == 1 and not kwargs:
        check_no_whole_batch(names, args[0], "**batch")
    values = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            way = f"pass the dict as **{name}" if _is_batch(names, value) else _NAME_IT
            raise TypeError(
                f"{name!r} is not an input of the model as it was partitioned, which takes "
                f"{list(names)}; {way}"
            )
        if name in values:
            raise TypeError(f"input {name!r} is given twice, by position and by name")
        values[name] = value
    return [values.get(name, Absent.ABSENT) for name in names]


def check_no_whole_batch(names: Sequence[str], value: Any, way: str) -> None:
    """Raise TypeError if `value`, given by position alone, is a dict of the inputs `names`.

    `way` tells how to pass such a dict.
    """
    if len(names) > 1 and _is_batch(names, value) and names[0] in value:
        raise TypeError(
            f"the model's first argument, {names[0]!r}, is given as a dict of its arguments "
            f"({', '.join(map(repr, value))}); pass that dict as {way}, or by name where it is the "
            f"value of that one argument"
        )


def _is_batch(names: Sequence[str], value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and set(value) <= set(names)


def canonical_names(liveness: Iterable[Sequence[str]]) -> bool:
    """Return whether results are named by their stages alone, as in a split graph."""
    return any(_CANONICAL.match(name) for names in liveness for name in names)


class Stage:
    """Names the inputs of stage `stage_id`, makes its arguments, and collects its outputs.

    `liveness` and `stage_id_2_arg_names` are those of :class:`pipecodec.stages.liveness.Liveness`.
    `outputs` declares the stage's outputs: a list of names, one string for the whole value, or
    None. `name` is the prefix of its canonical output names (``submod_<stage_id>``).

    One run: ``env = bind(values)``, ``args, kwargs = arguments(env)``, the module's forward,
    ``name_outputs(env, output)``, ``values = collect(env, liveness[stage_id + 1])``.
    """

    def __init__(
        self,
        liveness: Mapping[int, Sequence[str]] | Sequence[Sequence[str]],
        stage_id_2_arg_names: Mapping[int, Sequence[Arg]],
        stage_id: int,
        *,
        outputs: str | Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.stage_id = stage_id
        self.name = f"submod_{stage_id}" if name is None else name
        self.outputs = outputs
        self.live = list(liveness[stage_id])
        self.args = list(stage_id_2_arg_names[stage_id])
        self._inputs = [arg_name(arg) for arg in stage_id_2_arg_names[-1]]
        self._next_args = list(stage_id_2_arg_names.get(stage_id + 1, ()))
        # In a split graph the next stage's first argument need not be this stage's result,
        # and a key of a returned dict may be the name of an unrelated input.
        lists = list(liveness.values() if isinstance(liveness, Mapping) else liveness)
        self._canonical = canonical_names(lists) or any(
            self._is_own(name) for names in lists for name in names
        )

    def bind(self, values: Sequence[Any]) -> dict[str, Any]:
        """Name the received values, which have the order of ``liveness[stage_id]``.

        The first stage also takes all inputs of the model, in signature order. Raises ValueError
        if the number of values fits neither.
        """
        names = self.live
        if self.stage_id == 0 and len(values) == len(self._inputs):
            names = self._inputs
        if len(values) != len(names):
            raise ValueError(
                f"stage {self.stage_id} receives {len(values)} values, but its liveness lists "
                f"{len(names)}: {names}"
            )
        return dict(zip(names, values, strict=True))

    def arguments(self, env: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments of the stage's module.

        Raises ValueError if a required one is missing.
        """
        positional: list[Any] = []
        keyword: dict[str, Any] = {}
        for arg in self.args:
            value = look_up(env, arg_name(arg))
            if value is Absent.ABSENT:
                if isinstance(arg, OptionalArg):
                    continue
                raise ValueError(
                    f"stage {self.stage_id} takes {arg_name(arg)!r}, which it did not receive; "
                    f"there is {_listed(env)}{_GIVE_IT if arg_name(arg) in self._inputs else ''}"
                )
            if isinstance(arg, str):
                positional.append(value)
            else:
                keyword[arg[0]] = value
        return tuple(positional), keyword

    def name_outputs(self, env: dict[str, Any], output: Any) -> None:
        """Add the module's output to `env`.

        The whole is ``submod_k``; its items are ``submod_k.i`` or, in a mapping, also
        ``submod_k.key``. Declared names come on top. Without them, and unless the live values
        have canonical names, a mapping's string keys name its values, and anything else binds to
        the next stage's arguments in order (a tuple to several).

        Raises ValueError if the output does not fit the declared names or the next arguments.
        """
        env[self.name] = output
        if isinstance(self.outputs, str):
            env[self.outputs] = output
        elif self.outputs is not None:
            env.update(self._declared(self.outputs, output))
        elif self._canonical:
            return
        elif isinstance(output, Mapping):
            env.update((key, value) for key, value in output.items() if isinstance(key, str))
        else:
            env.update(self._leading(output))

    def collect(self, env: Mapping[str, Any], next_liveness: Sequence[str]) -> list[Any]:
        """Return the values that the next stage receives, in the order of `next_liveness`.

        A value that is not there, and that the next stage does not require, is sent as ABSENT: a
        later stage may still give it. Raises ValueError for any other.
        """
        required = {arg_name(arg) for arg in self._next_args if not isinstance(arg, OptionalArg)}
        values = []
        for name in next_liveness:
            value = look_up(env, name)
            if value is Absent.ABSENT and (name in required or self._is_own(name)):
                raise ValueError(
                    f"stage {self.stage_id} has to pass on {name!r}, but there is only "
                    f"{_listed(env)}. Let the stage that makes it return it under this name, or "
                    f"declare outputs= for that stage; if it comes from outside, name it in "
                    f"inputs= and pass it"
                )
            values.append(value)
        return values

    def _is_own(self, name: str) -> bool:
        return name == self.name or name.startswith(f"{self.name}.")

    def _declared(self, names: Sequence[str], output: Any) -> dict[str, Any]:
        if isinstance(output, Mapping):
            missing = [name for name in names if name not in output]
            if missing:
                raise ValueError(
                    f"stage {self.stage_id} declares outputs {list(names)}, but the mapping it "
                    f"returned lacks {missing}; its keys are {list(output)}"
                )
            return {name: output[name] for name in names}
        items = _several(output)
        if len(items) != len(names):
            raise ValueError(
                f"stage {self.stage_id} declares {len(names)} outputs, {list(names)}, but "
                f"returned {len(items)} values; declare as many names, or one string for the whole"
            )
        return dict(zip(names, items, strict=True))

    def _leading(self, output: Any) -> dict[str, Any]:
        names = [arg_name(arg) for arg in self._next_args]
        items = _several(output)
        if len(items) > len(names):
            raise ValueError(
                f"stage {self.stage_id} returned {len(items)} values, but stage "
                f"{self.stage_id + 1} takes only {names}; declare outputs= for stage "
                f"{self.stage_id}, or return a dict"
            )
        return dict(zip(names, items, strict=False))


def _several(output: Any) -> tuple[Any, ...]:
    return output if isinstance(output, tuple) else (output,)


def look_up(env: Mapping[str, Any], name: str) -> Any:
    """Return the value of `name`, taken out of the value of a prefix if need be, or ABSENT."""
    prefix, keys = name, []
    while prefix not in env:
        prefix, dot, key = prefix.rpartition(".")
        if not dot:
            return Absent.ABSENT
        keys.append(key)
    value = env[prefix]
    try:
        for key in reversed(keys):
            value = _take(value, key)
    except (LookupError, TypeError, ValueError):
        return Absent.ABSENT
    return value


def _take(value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        return value[int(key)]
    if key in value:
        return value[key]
    position = int(key)
    return value[position] if position in value else list(value.values())[position]


def _listed(env: Mapping[str, Any]) -> str:
    present = [n for n, value in env.items() if value is not Absent.ABSENT and "@" not in n]
    return ", ".join(present) or "nothing"
