"""A rank's copy of a weight that several stages share."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["TiedCopy"]


class TiedCopy:
    """This rank's copy of a tied weight: the stage's parameter under a path, until it is bound.

    The engine takes it for a module with one parameter. Being none, it adds no names and no state.
    Once bound it is a parameter, under any name: wrapping the module that owns it changes
    nothing. The optimizer keeps to the parameter too, so that another in its place is an error.
    """

    def __init__(self, stage: nn.Module, stage_id: int, path: str) -> None:
        self._stage, self._path = stage, path
        self._bound: nn.Parameter | None = None
        self.name = f"{path} (stage {stage_id})"

    @property
    def weight(self) -> nn.Parameter:
        """The parameter; ``AttributeError`` if there is none under the path."""
        return self._stage.get_parameter(self._path) if self._bound is None else self._bound

    def bind(self, parameter: nn.Parameter) -> None:
        """Make this the stage's parameter, under all names that the copy so far has there."""
        own = self.weight
        for module in self._stage.modules():
            for name, each in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if each is own:
                    setattr(module, name, parameter)
        self._bound = parameter

    def check(self) -> None:
        """Raise ``ValueError`` unless the stage still has the parameter."""
        try:
            here = self._stage.get_parameter(self._path) is self._bound
        except AttributeError:  # its module was wrapped, or a parametrization put before it
            here = any(parameter is self._bound for parameter in self._stage.parameters())
        if not here:
            raise ValueError(
                f"{self.name} was replaced after the pipeline module was built, and is no longer "
                f"tied, nor trained by an optimizer made before; replace it before, or call "
                f"retie() of the pipeline module on all ranks before the engine is made"
            )

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weight if it is trainable, for the engine to count."""
        if self.weight.requires_grad:
            yield self.weight
