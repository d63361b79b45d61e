"""Writes a stage's steps down as Python source, which runs without an interpreter of steps."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..tape.ambient import ambient
from ..tape.arguments import Argument, Const, Device, Held, Node, Sub, Training, Value, keys_of
from ..tape.compare import equal
from ..tape.observe import form_of, size_of
from ..tape.structure import take
from ..tape.tape import Fact, Forward, Method, Step, Tape
from . import run_time
from .code import Code

__all__ = ["Writer"]

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.truediv: "/",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}


@dataclass
class Writer:
    """Writes one function: the parameters are the values that a piece takes."""

    tape: Tape
    names: Mapping[int, str]
    """Value -> name, of those that the function takes or gives."""
    lines: list[str] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    head: list[str] = field(default_factory=list)
    device: str = "self.device"
    needs_device: bool = False

    def piece(
        self, name: str, steps: Sequence[Step], takes: Sequence[int], gives: Sequence[int] | None
    ) -> Code:
        """Return the code of a piece; `gives` None: it returns the model's result."""
        self._start(steps, takes)
        keep = set(keys_of(self.tape.result)) if gives is None else set(gives)
        last_use = {key: i for i, s in enumerate(steps) for key in (*s.uses, *s.makes)}
        used = {key for step in self.tape.steps for key in step.uses} | keep
        used |= {key for step in steps for key in step.uses}
        for i, step in enumerate(steps):
            self._step(step, used)
            dropped = [k for k, at in last_use.items() if at == i and k not in keep and k in used]
            if dropped:
                self.lines.append("    del " + ", ".join(map(self._value, dropped)))
        if gives is None:
            self.lines.append(f"    return {self._write(self.tape.result)}")
        else:
            pairs = ", ".join(f"{self.names[key]!r}: {self._value(key)}" for key in gives)
            self.lines.append(f"    return {{{pairs}}}")
        return self._code(name, takes)

    def question(self, name: str, steps: Sequence[Step], takes: Sequence[int]) -> Code:
        """Return the code of guards alone; the function raises where one does not hold."""
        self._start(steps, takes)
        used = {key for step in steps for key in step.uses}
        for step in steps:
            self._step(step, used)
        self.lines.append("    return None")
        return self._code(name, takes)

    def _start(self, steps: Sequence[Step], takes: Sequence[int]) -> None:
        for key in takes:
            fact = self.tape.facts[key]
            if isinstance(fact, Fact):
                self.device = f"{self.names[key]}.device"
                break
        self.taken = set(takes)

    def guard_precision(self, takes: Sequence[int]) -> None:
        """Have every floating-point tensor that crosses be of the observed dtype."""
        kind, on = self.tape.entry.device_type, self.tape.entry.autocast
        enabled = self._constant(torch.is_autocast_enabled)
        wrong = self._constant(run_time.wrong_precision)
        self.head.append(f"    if {enabled}({kind!r}) is not {on}:")
        self.head.append(f"        {wrong}('autocast', {on}, {not on})")
        for key in takes:
            fact = self.tape.facts[key]
            if isinstance(fact, Fact) and fact.dtype.is_floating_point:
                name, dtype = self.names[key], self._constant(fact.dtype)
                self.head.append(f"    if {name}.dtype is not {dtype}:")
                self.head.append(f"        {wrong}({name!r}, {dtype}, {name}.dtype)")

    def guard_mode(self, training: bool) -> None:
        """Have the stage be in the one mode in which the model could be observed."""
        self.head.append(f"    if self.mode is not {training}:")
        self.head.append(f"        {self._constant(run_time.other_mode)}({training})")

    def _code(self, name: str, takes: Sequence[int]) -> Code:
        parameters = ", ".join(["self", *(self.names[key] for key in takes)])
        hoisted = [f"    {line}" for line in self.modules.values() if line]
        device = [f"    _device = {self.device}"] * self.needs_device
        lines = [f"def run({parameters}):", *self.head, *device, *hoisted, *self.lines]
        return Code(name, "\n".join(lines) + "\n", self.scope)

    # -- steps

    def _step(self, step: Step, used: set[int]) -> None:
        place = f"  # {step.place}" if step.place else ""
        if step.target is form_of and step.expect is not None:
            self._input_guard(step)
            return
        outs = [out for out in step.outs if out.key in used]
        wheres = {out.where for out in outs}
        args, kwargs = step.args.children
        if "args" in wheres:
            self.lines.append(f"    _args, _kwargs = {self._write(args)}, {self._write(kwargs)}")
            call = f"{self._callee(step)}(*_args, **_kwargs)"
        else:
            call = self._call(step, args, kwargs)
        only = outs[0].key if len(outs) == 1 and outs[0][:2] == ("result", ()) else None
        target = self._value(only) if only is not None else "_r"
        line = f"{target} = {call}" if outs or step.expect is not None else call
        self._place_line(step, line + place, {where for where in wheres if type(where) is tuple})
        if only is None:
            self._outputs(step, outs)
        if step.expect is not None:
            self._guard(step, target)

    def _place_line(self, step: Step, line: str, taps: set[Any]) -> None:
        indent = "    "
        if step.ambient is not None and step.ambient != self.tape.entry:
            state, entry = self._constant(step.ambient), self._constant(self.tape.entry)
            self.lines.append(f"{indent}with {self._constant(ambient)}({state}, {entry}):")
            indent += "    "
        if taps:
            module, wanted = self._module(str(step.target)), self._constant(tuple(sorted(taps)))
            self.lines.append(
                f"{indent}with {self._constant(run_time.tapped)}({module}, {wanted}) as _taps:"
            )
            indent += "    "
        self.lines.append(indent + line)

    def _outputs(self, step: Step, outs: Sequence[Any]) -> None:
        for at, length in step.guarded_lengths({out.key for out in outs}).items():
            items = f"{self._constant(take)}(_r, {self._constant(at)})" if at else "_r"
            told = f"{step.place!r}, {step.label!r}, {length}, len({items})"
            self.lines.append(f"    if len({items}) != {length}:")
            self.lines.append(f"        {self._constant(run_time.miscounted)}({told})")
        for out in outs:
            value = self._value(out.key)
            if out.where == "attributes":
                path, attribute = out.path
                self.lines.append(f"    {value} = {self._module(path)}.{attribute}")
                continue
            source = {"result": "_r", "args": "(_args, _kwargs)"}.get(str(out.where))
            if source is None:
                source = f"_taps[{out.where!r}]"
            if (
                out.where == "result"
                and len(out.path) == 1
                and type(out.path[0]) is int
                and (() in step.lengths or step.label in ("shape", "size"))
            ):
                self.lines.append(f"    {value} = _r[{out.path[0]}]")
            elif out.path:
                path = self._constant(out.path)
                self.lines.append(f"    {value} = {self._constant(take)}({source}, {path})")
            else:
                self.lines.append(f"    {value} = {source}")

    def _guard(self, step: Step, found: str) -> None:
        assert_ = self._constant(run_time.other_way)
        expected = step.expect[0] if step.expect else None
        if expected is True or expected is False:
            test = f"{found} is not {expected}"
        elif type(expected) is int:
            test = f"{found} != {expected}"
        else:
            test = f"not {self._constant(equal)}({found}, {self._constant(expected)})"
        told = f"{step.place!r}, {step.label!r}, {self._constant(expected)}, {found}"
        self.lines.append(f"    if {test}:")
        self.lines.append(f"        {assert_}({told})")

    def _input_guard(self, step: Step) -> None:
        value = self._write(step.args.children[0].children[0])  # type: ignore[union-attr]
        form: Any = step.expect[0] if step.expect else None
        other = self._constant(run_time.other_input)
        if form[0] == "tensor":
            tensor, dtype = self._constant(torch.Tensor), self._constant(form[2])
            test = f"not isinstance({value}, {tensor}) or {value}.dim() != {form[1]}"
            test += f" or {value}.dtype is not {dtype}"
        elif form == (type(None), None):
            test = f"{value} is not None"
        else:
            compare, known = self._constant(form_of), self._constant(form)
            test = f"not {self._constant(equal)}({compare}({value}), {known})"
        self.lines.append(f"    if {test}:")
        self.lines.append(f"        {other}({step.place!r}, {self._constant(form)}, {value})")

    def _callee(self, step: Step) -> str:
        if isinstance(step.target, Method):
            prefix, _, method = step.target.rpartition(".")
            owner = self._module(prefix) if prefix else "self.root"
            return f"{owner}.{method}"
        if isinstance(step.target, str):
            forward = ".forward" if isinstance(step.target, Forward) else ""
            return self._module(step.target) + forward
        return self._constant(step.target)

    def _call(self, step: Step, args: Argument, kwargs: Argument) -> str:
        positional = _items(args)
        if positional is not None and not step.is_module:
            infix = _INFIX.get(step.target)
            if infix and len(positional) == 2:
                left, right = map(self._write, positional)
                return f"{left} {infix} {right}"
            if step.target is size_of:
                return f"{self._write(positional[0])}.shape[{self._write(positional[1])}]"
            if getattr(step.target, "__name__", "") == "__get__" and len(positional) == 1:
                return f"{self._write(positional[0])}.{step.label}"
        if positional is None:
            words = [f"*{self._write(args)}"]
        else:
            words = [self._write(one) for one in positional]
        if isinstance(kwargs, Node) and all(str(key).isidentifier() for key in kwargs.keys):
            pairs = zip(kwargs.keys, kwargs.children, strict=True)
            words += [f"{key}={self._write(value)}" for key, value in pairs]
        else:
            words.append(f"**{self._write(kwargs)}")
        return f"{self._callee(step)}({', '.join(words)})"

    # -- expressions

    def _value(self, key: int) -> str:
        return self.names[key] if key in self.taken else f"_{key}"

    def _write(self, template: Argument) -> str:
        match template:
            case Value(key):
                return self._value(key)
            case Const(value):
                simple = value is None or type(value) in (bool, int, str)
                return repr(value) if simple else self._constant(value)
            case Training():
                return "self.mode"
            case Device():
                self.needs_device = True
                return "_device"
            case Sub(name):
                return self._module(name)
            case Held(name):
                prefix, _, leaf = name.rpartition(".")
                return f"getattr({self._module(prefix) if prefix else 'self'}, {leaf!r})"
        children = [self._write(child) for child in template.children]
        listed = ", ".join(children)
        if template.kind is tuple:
            return f"({listed},)" if children else "()"
        if template.kind is list:
            return f"[{listed}]"
        if template.kind is slice:
            return f"slice({listed})"
        if template.kind is dict and all(type(key) in (str, int) for key in template.keys):
            pairs = zip(template.keys, children, strict=True)
            return "{" + ", ".join(f"{key!r}: {child}" for key, child in pairs) + "}"
        return f"{self._constant(template.rebuild)}([{listed}])"

    def _module(self, name: str) -> str:
        """Return a name for a module, looked up once a call: it may be wrapped at any time."""
        if name == "":
            return "self"
        if name not in self.modules:
            prefix, _, leaf = name.rpartition(".")
            owner = self._module(prefix)
            shown = "".join(c if c.isalnum() and c.isascii() else "_" for c in name[-40:])
            local = f"_m{len(self.modules)}_{shown}"  # two names may be shown alike
            self.modules[name] = f"{local} = {owner}._modules[{leaf!r}]"
        return self.modules[name].partition(" ")[0]

    def _constant(self, value: Any) -> str:
        for name, known in self.scope.items():
            if known is value:
                return name
        name = f"_c{len(self.scope)}"
        self.scope[name] = value
        return name


def _items(args: Argument) -> Sequence[Argument] | None:
    if isinstance(args, Const) and isinstance(args.value, tuple):
        return [Const(value) for value in args.value]
    return args.children if isinstance(args, Node) and args.kind is tuple else None
