"""Costs of the user's own, by op and scheme, as additive tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError, JobError, StorageError
from autoquant.job.own_cost import OwnCost
from autoquant.job.section import Score
from autoquant.model.data.entry_points import load_entry
from autoquant.model.graph.captured import Capture
from autoquant.results.storage import read_text
from autoquant.searching.measuring.size import plan_costs, weight_bytes

ANY_KIND = "*"
_COLUMNS = ("kind", "scheme", "cost")
_PER: Mapping[str, Callable[[Site, Scheme], float]] = {
    "op": lambda site, scheme: 1.0,
    "mac": lambda site, scheme: float(site.macs),
    "element": lambda site, scheme: float(math.prod(site.output_shape[1:])),
    "weight_byte": lambda site, scheme: float(weight_bytes(site, scheme)),
}
"""What a row of a table is the cost of, for one sample."""

OwnCosts = Mapping[str, CostTable]
"""By name of an objective of the user's own."""


def own_tables(own: Iterable[OwnCost], sites: Sequence[Site], space: SearchSpace) -> OwnCosts:
    """Give the cost of every choice of a space, and of fp32 where it is known.

    Raises:
        JobError: A table or a function cannot be read, or says nothing of a choice.
    """
    return {item.name: _table(item, sites, space) for item in own}


def own_costs(plan: Plan, tables: OwnCosts) -> dict[str, Measurement]:
    """Estimate a plan by each table.

    Raises:
        BackendError: A table says nothing of one of the plan's choices.
    """
    return {
        name: Measurement(_predict(name, table, plan), table.kind) for name, table in tables.items()
    }


def exact_costs(captured: Capture, tables: OwnCosts, plan: Plan) -> dict[str, Measurement]:
    """What follows from a plan alone: size, arithmetic, and costs of the user's own."""
    return plan_costs(plan, captured.sites, captured.stored_count) | own_costs(plan, tables)


def own_baseline(sites: Sequence[Site], tables: OwnCosts) -> dict[str, Measurement]:
    """Estimate the float model, by the tables that know fp32 everywhere."""
    plan = Plan.uniform((site.name for site in sites), Scheme.FP32)
    known = {
        name: table
        for name, table in tables.items()
        if all((site.name, Scheme.FP32) in table.ops for site in sites)
    }
    return own_costs(plan, known)


def _predict(name: str, table: CostTable, plan: Plan) -> float:
    try:
        return table.predict(plan)
    except KeyError as error:
        site, scheme = error.args[0]
        raise BackendError(
            f"the objective {name} says nothing of {site!r} in {scheme.value}",
            hint="add a row for it, or let the function answer",
        ) from error


def _table(own: OwnCost, sites: Sequence[Site], space: SearchSpace) -> CostTable:
    cost_of = _from_file(own.table) if own.table is not None else _from_function(own)
    allowed = {site: set(knob.schemes) for knob in space.knobs for site in knob.sites}
    ops: dict[tuple[str, Scheme], float] = {}
    for site in sites:
        for scheme in Scheme:
            needed = scheme in allowed.get(site.name, ())
            if not needed and scheme is not Scheme.FP32:
                continue
            cost = cost_of(site, scheme)
            if cost is not None:
                ops[site.name, scheme] = cost
            elif needed:
                raise JobError(
                    f"objectives: {own.name}: {own.table or 'the function'} says nothing of "
                    f"{site.kind.value} in {scheme.value}, which {site.name!r} may take",
                    hint=f"add a row for it, or one with the kind {ANY_KIND}",
                )
    return CostTable(0.0, ops, {}, Kind.ESTIMATED, own.unit)


def _from_function(own: OwnCost) -> Callable[[Site, Scheme], float | None]:
    function = load_entry(own.function.entry) if isinstance(own.function, Score) else own.function

    def cost_of(site: Site, scheme: Scheme) -> float | None:
        where = f"objectives: {own.name}: the function"
        try:
            found = None if function is None else function(site, scheme)
            cost = None if found is None else float(found)
        except Exception as error:
            raise JobError(
                f"{where} failed for {site.name!r} in {scheme.value}: "
                f"{type(error).__name__}: {error}",
                hint="it is called with a site and a scheme, and gives a number",
            ) from error
        return None if cost is None else _finite(cost, f"{where} for {site.name!r}")

    return cost_of


def _from_file(path: Path) -> Callable[[Site, Scheme], float | None]:
    """Rows of an op's own kind win over those of any kind; several add up."""
    rows = [_row(item, f"{path}: row {place}") for place, item in enumerate(_rows(path), start=1)]

    def cost_of(site: Site, scheme: Scheme) -> float | None:
        for kind in (site.kind.value, ANY_KIND):
            found = [row for row in rows if row[0] == kind and row[1] is scheme]
            if found:
                return sum(cost * _PER[per](site, scheme) for _, _, cost, per in found)
        return None

    return cost_of


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = read_text(path)
    except StorageError as error:
        raise JobError(f"objectives: {error.message}", hint=error.hint) from error
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise JobError(f"{path} is not valid YAML: {error}", hint="mend the file") from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise JobError(f"{path} is no list of rows", hint=f"each has {', '.join(_COLUMNS)}")
    return found


def _row(row: Mapping[str, Any], where: str) -> tuple[str, Scheme, float, str]:
    """Kind, scheme, cost and what it is the cost of."""
    known = {*_COLUMNS, "per"}
    wrong = [key for key in row if key not in known] + [key for key in _COLUMNS if not row.get(key)]
    if wrong and not (wrong == ["cost"] and row.get("cost") == 0):
        raise JobError(f"{where}: {wrong[0]!r} is wrong or missing", hint=f"write {sorted(known)}")
    kinds, schemes = [item.value for item in OpKind], [item.value for item in Scheme]
    for key, choices in (("kind", [*kinds, ANY_KIND]), ("scheme", schemes)):
        if row[key] not in choices:
            raise JobError(
                f"{where}: {key} {row[key]!r} is unknown", hint=f"known: {', '.join(choices)}"
            )
    per = row.get("per") or "op"
    if per not in _PER:
        raise JobError(f"{where}: per {per!r} is unknown", hint=f"known: {', '.join(_PER)}")
    try:
        cost = float(row["cost"])
    except (TypeError, ValueError) as error:
        raise JobError(f"{where}: cost {row['cost']!r} is no number", hint="write one") from error
    return row["kind"], Scheme(row["scheme"]), _finite(cost, where), per


def _finite(cost: float, where: str) -> float:
    if not math.isfinite(cost):
        raise JobError(f"{where}: cost {cost} is not finite", hint="give a number")
    return cost
