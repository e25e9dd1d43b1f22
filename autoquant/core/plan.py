"""Plans: one scheme for every site."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import ge
from pathlib import Path

from autoquant.core.calls import checked
from autoquant.core.glance import Glance
from autoquant.core.pairs import Pairs, pairs_of
from autoquant.core.precision import Scheme
from autoquant.errors import PlanError

PLAN_FORMAT = 1
_EQUALISED = "equalised"
"""Key in a plan file of a search that rescaled channels: digest of the rescaled weights."""
INT16_SCHEMES = frozenset({Scheme.INT16, Scheme.INT16_WEIGHT})


@dataclass(frozen=True)
class Plan:
    """A sorted, hashable assignment of schemes to sites.

    Build one with `Plan.of`, which sorts.

    >>> plan = Plan.of({"fc": Scheme.INT8, "conv": Scheme.FP32})
    >>> plan["conv"].value, plan.counts()
    ('fp32', {'int8': 1, 'fp32': 1})
    """

    assignment: tuple[tuple[str, Scheme], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.assignment]
        if any(map(ge, names, names[1:])):
            raise ValueError("a plan's sites must be unique and sorted; build it with Plan.of")

    @classmethod
    def of(cls, schemes: Mapping[str, Scheme]) -> Plan:
        """Build a plan from a mapping of site name to scheme."""
        return cls(pairs_of(schemes))

    @classmethod
    def uniform(cls, sites: Iterable[str], scheme: Scheme) -> Plan:
        """Build the plan of one scheme at every site."""
        return cls.of(dict.fromkeys(sites, scheme))

    @property
    def schemes(self) -> Mapping[str, Scheme]:
        """The assignment as a mapping; a dict of it is faster where every site is looked up."""
        return Pairs(self.assignment)

    def __getitem__(self, site: str) -> Scheme:
        return self.schemes[site]

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that equal plans share."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def counts(self) -> dict[str, int]:
        """Count sites by scheme, in the order of `Scheme`."""
        counted = Counter(scheme for _, scheme in self.assignment)
        return {scheme.value: counted[scheme] for scheme in Scheme if counted[scheme]}

    @property
    def glance(self) -> Glance:
        """The plan in a few lines: how many sites take each scheme, and which."""
        sites: dict[str, list[str]] = {}
        for name, scheme in self.assignment:
            sites.setdefault(scheme.value, []).append(name)
        rows = [(word, str(len(names)), ", ".join(names)) for word, names in sites.items()]
        rows.sort(key=lambda row: -int(row[1]))
        title = f"plan of {len(self.assignment)} sites, digest {self.digest}"
        return Glance(title, ("scheme", "sites", "which"), rows, 'plan["site"], plan.save(path)')

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {scheme}" for scheme, count in self.counts().items())
        return f"<plan {self.digest}: {counts}>"

    def _repr_html_(self) -> str:
        return self.glance.html

    @property
    def int16_share(self) -> float:
        """Share of the sites that compute on 16-bit integers, from 0 to 1."""
        wide = sum(scheme in INT16_SCHEMES for _, scheme in self.assignment)
        return wide / max(len(self.assignment), 1)

    def to_json(self) -> dict[str, str]:
        """Give the plan as `{site: scheme}`."""
        return {name: scheme.value for name, scheme in self.assignment}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Plan:
        """Read `{site: scheme}`."""
        known = {scheme.value: scheme for scheme in Scheme}
        for site, scheme in data.items():
            if scheme not in known:
                raise PlanError(
                    f"site {site!r} has the unknown scheme {scheme!r}",
                    hint=f"choose one of {', '.join(known)}",
                )
        return cls.of({site: known[scheme] for site, scheme in data.items()})

    def file_text(self, equalised: str = "") -> str:
        """Give what `save` writes; `equalised`: digest of the rescaled model that it is of."""
        document = {"format": PLAN_FORMAT, "digest": self.digest, "plan": self.to_json()}
        if equalised:
            document[_EQUALISED] = equalised
        return json.dumps(document, indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, readable by `load_plan`."""
        Path(path).write_text(self.file_text(), encoding="utf-8")


@checked
def load_plan(path: str | Path) -> Plan:
    """Read a plan that `Plan.save` wrote.

    Raises:
        PlanError: The file is missing, is not a plan, or was changed so that its digest is wrong.
    """
    path = Path(path)
    return _plan_of(_read(path), path)


def load_plans(path: str | Path) -> tuple[Plan, ...]:
    """Read the plans of a file: one that `Plan.save` wrote, or all `plans` of a `tune.json`.

    Raises:
        PlanError: The file is missing, or holds no plans, or was changed.
    """
    document = _read(path)
    if not isinstance(document, dict) or not isinstance(document.get("plans"), list):
        return (_plan_of(document, path),)
    return tuple(_plan_of(item, path) for item in document["plans"])


def equalised_weights(path: str | Path) -> str:
    """Digest of the rescaled model that a plan file is of; empty where channels are as given.

    Raises:
        PlanError: The file is missing, or no JSON.
    """
    document = _read(path)
    return str(document.get(_EQUALISED, "")) if isinstance(document, dict) else ""


def _read(path: str | Path) -> object:
    try:
        document: object = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PlanError(f"no plan at {path}", hint="give the path of a plan.json") from error
    except (ValueError, OSError) as error:
        raise PlanError(f"{path} is not a plan: {error}", hint="save it with plan.save") from error
    return document


def _plan_of(document: object, path: str | Path) -> Plan:
    if not isinstance(document, dict) or not isinstance(document.get("plan"), dict):
        raise PlanError(f"{path} is not a plan: no key 'plan'", hint="save it with plan.save")
    try:
        plan = Plan.from_json(document["plan"])
    except PlanError as error:
        raise PlanError(f"{path}: {error.message}", hint=error.hint) from error
    if document.get("digest", plan.digest) != plan.digest:
        raise PlanError(
            f"{path}: digest {document['digest']!r} is not that of its plan ({plan.digest})",
            hint="the file was edited; remove its 'digest' to accept the edit",
        )
    return plan
