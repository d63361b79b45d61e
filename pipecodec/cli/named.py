"""MODULE:FUNCTION: finds the function, calls it, and checks the model and the batch it gives."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from torch import nn

from .endings import Failed, Unusable

__all__ = ["find", "model_and_batch", "said"]

_NAME = r"[^\W\d]\w*"
_DOTTED = re.compile(rf"{_NAME}(\.{_NAME})*")
_RESERVED = ("micro_batches", "more", "optimizer", "part")
"""Arguments of ``pipecodec.doctor`` itself."""


def find(spec: str) -> Callable[[], Any]:
    """Return the function that MODULE:FUNCTION names; MODULE is looked for as ``python -m`` does.

    Raises:
        UsageError: the text is no such name.
        Unusable: there is no such module or function.
        Failed: the module raises while it is imported.
    """
    module_name, colon, path = spec.partition(":")
    good = colon and _DOTTED.fullmatch(module_name) and _DOTTED.fullmatch(path)
    if not good or module_name.endswith(".py"):
        raise click.UsageError(
            f"{spec!r} is not MODULE:FUNCTION, such as train:build.{_hint(spec)}"
        )
    found = _import(module_name)
    for at, part in enumerate(path.split(".")):
        where = ".".join([module_name, *path.split(".")[:at]])
        try:
            found = getattr(found, part)
        except AttributeError:
            near = _near(part, dir(found))
            raise Unusable(f"{where} has no {part!r}{near}") from None
        except Exception as error:
            raise Failed(f"{where}.{part} {said(error)}") from error
    if not callable(found):
        raise Unusable(f"{spec} is of type {type(found).__name__}, and not a function")
    return _without_arguments(found, spec)


def _hint(spec: str) -> str:
    file, _, function = spec.partition(":")
    if file.endswith(".py") or "/" in file:
        name = file.removesuffix(".py").removeprefix("./").replace("/", ".")
        return f" MODULE is a name, not a file: {name}:{function or 'FUNCTION'}"
    return ""


def _import(name: str) -> Any:
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise Failed(f"importing {name} {said(error)}") from error
        raise Unusable(
            f"there is no module {name!r}, neither in the current folder nor among the installed "
            "ones"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # such as SystemExit
        raise Failed(f"importing {name} {said(error)}") from error


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [each for each in names if not each.startswith("__")])
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _without_arguments(function: Callable[..., Any], spec: str) -> Callable[[], Any]:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise Unusable(
            f"{spec} has to take nothing and return (model, kwargs), but is called with arguments: "
            f"{error}"
        ) from None
    except ValueError:  # it has no signature
        pass
    return function


def model_and_batch(function: Callable[[], Any], spec: str) -> tuple[nn.Module, dict[str, Any]]:
    """Call the function and return its model and its batch.

    Raises:
        Failed: it raises.
        Unusable: it gives anything else.
    """
    try:
        given = function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # such as SystemExit
        raise Failed(f"{spec} {said(error)}") from error
    must = f"{spec} has to return (model, kwargs): a torch.nn.Module and its batch as a dict"
    if inspect.iscoroutine(given):
        given.close()
        raise Unusable(f"{must}; it is an async function")
    if not isinstance(given, (tuple, list)):
        raise Unusable(f"{must}; it returned one value of type {type(given).__name__}")
    if len(given) != 2:
        raise Unusable(f"{must}; it returned {len(given)} values")
    model, batch = given
    if not isinstance(model, nn.Module):
        raise Unusable(f"{must}; the first value is of type {type(model).__name__}")
    if not isinstance(batch, Mapping):
        raise Unusable(f"{must}; the second value is of type {type(batch).__name__}")
    for name in batch:
        if not isinstance(name, str):
            raise Unusable(f"{must}; it has the key {name!r}, which names no argument")
        if name in _RESERVED:
            raise Unusable(f"{spec} gives a batch with {name!r}, an argument of the doctor's own")
    return model, dict(batch)


def said(error: BaseException) -> str:
    """Return an error in one line, such as "raises KeyError: 'x' (train.py:12)".

    The place is the last one that is no library's, if there is such a one.
    """
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "its text cannot be had"
    return f"raises {type(error).__name__}{f': {text}' if text else ''}{_place(error)}"


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({os.path.basename(error.filename)}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    others = [each for each in frames if not each.filename.startswith((here, "<"))]
    own = [each for each in others if not re.search(r"site-packages|/lib/python3", each.filename)]
    return (
        f" ({os.path.basename((own or others)[-1].filename)}:{(own or others)[-1].lineno})"
        if (own or others)
        else ""
    )
