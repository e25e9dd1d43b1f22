"""The rules of a search space: which sites may take which schemes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind

SchemeName = Annotated[Scheme, Field(strict=False)]
SchemeNames = Annotated[tuple[SchemeName, ...], Field(strict=False, min_length=1)]


class Rule(BaseModel):
    """Schemes of the sites that match all of its patterns.

    Attributes:
        path: Glob on the site's name (`layer1.*`, `*:add:*`).
        kind: Kind of op.
        block: Glob on the path of the module that holds the site.
        schemes: What the sites may take.
        pin: The one scheme they take.
        optional: Whether it may match no site, for spaces that serve many models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str | None = None
    kind: Annotated[OpKind, Field(strict=False)] | None = None
    block: str | None = None
    schemes: SchemeNames | None = None
    pin: SchemeName | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Rule:
        if self.path is None and self.kind is None and self.block is None:
            raise ValueError("a rule needs path, kind or block, to say which sites it means")
        if (self.schemes is None) == (self.pin is None):
            raise ValueError("a rule needs schemes or pin, and not both; give one of the two")
        return self

    def describe(self) -> str:
        """The rule's patterns in one line."""
        patterns = {
            "path": self.path,
            "kind": self.kind.value if self.kind else None,
            "block": self.block,
        }
        return ", ".join(f"{key}: {value}" for key, value in patterns.items() if value)


class SpaceRules(BaseModel):
    """A search space before it meets a model.

    Attributes:
        name: For reports.
        schemes: What every site may take, as far as the target runs it.
        rules: Applied in order; later ones override earlier ones.
        fallback: Taken where nothing else is left.
        grouping: `block`: all sites of a block agree.
        groups: Globs on site names; the sites that one group matches agree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = "inline"
    schemes: SchemeNames
    rules: Annotated[tuple[Rule, ...], Field(strict=False)] = ()
    fallback: SchemeName = Scheme.FP32
    grouping: Literal["site", "block"] = "site"
    groups: Annotated[
        tuple[Annotated[tuple[str, ...], Field(strict=False, min_length=1)], ...],
        Field(strict=False),
    ] = ()
