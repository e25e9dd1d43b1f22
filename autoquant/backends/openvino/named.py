"""What stands in a graph for an op that an extension of the front end builds."""

from __future__ import annotations

from typing import Any


class Named:
    """A function for torch.fx, whose name tells the front end which extension to call."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __str__(self) -> str:
        return self.__name__

    def __call__(self, *tensors: Any) -> Any:
        """Compute nothing: the front end knows what the name stands for."""
        raise NotImplementedError(self.__name__)
