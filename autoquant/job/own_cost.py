"""An objective of the user's own: a cost that adds up over ops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from autoquant.core.objectives import Objective, OwnObjective
from autoquant.core.quantities import QUANTITIES
from autoquant.job.section import Entry, Score, Section, entry_from_text


def _name_of(function: Any) -> Any:
    """A function of a call from Python by its name, since a file can hold no function."""
    if isinstance(function, (Score, Entry)):
        return function.model_dump(mode="json")
    if function is None:
        return None
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", None) or "python"
    return {"entry": f"{module}:{name if name.isidentifier() else 'function'}"}


OwnFunction = Annotated[
    Score | Callable[..., Any], BeforeValidator(entry_from_text), PlainSerializer(_name_of)
]

OwnEntry = Annotated[
    Entry | Callable[..., Any], BeforeValidator(entry_from_text), PlainSerializer(_name_of)
]
"""The same, called with arguments that the job names too."""


class OwnCost(Section):
    """A cost by a table or a function of (site, scheme).

    Attributes:
        name: Of the objective, its measurement and its column.
        unit: Shown with every value.
        table: A CSV or YAML file: kind of op, scheme, cost, and for what it is.
        function: Called with a site and a scheme; gives the cost of one call.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    unit: str = ""
    table: Annotated[Path, Field(strict=False)] | None = None
    function: OwnFunction | None = None

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in QUANTITIES or value in {item.value for item in Objective}:
            raise ValueError("a measurement of autoquant has that name; choose another")
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> OwnCost:
        if (self.table is None) == (self.function is None):
            raise ValueError(f"objective {self.name}: give either table or function")
        return self

    @property
    def goal(self) -> OwnObjective:
        """The objective."""
        return OwnObjective(self.name, self.unit)
