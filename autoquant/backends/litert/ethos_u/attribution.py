"""Whose cycles they are: the operators of a file by site, and by boundary between two sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoquant.backends.litert.ethos_u.vela import Estimate

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a `.tflite` file.

    Attributes:
        sites: That it computes, in graph order; none where it is of no site (a reshape, a pad, a
            conversion), more than one where the converter merged them.
        is_conversion: Whether it turns integers of one scale or width into another's.
        inputs: Indices of the tensors that it reads.
        outputs: Indices of the tensors that it writes.
        value: Which value of the model it writes, whatever the format; empty where it is none.
    """

    sites: tuple[str, ...]
    is_conversion: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    value: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What it takes to turn a tensor into the format of those that read it.

    Attributes:
        writer: Site that writes the tensor.
        readers: Sites that read the result; one conversion serves all of the same format.
        cycles: Of the conversion.
        value: What is converted; a site may write several values (an activation and its mean).
    """

    writer: str
    readers: tuple[str, ...]
    cycles: int
    value: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Where the cycles of a plan go; together they are Vela's total.

    Attributes:
        ops: By site.
        conversions: Between two sites.
        rest: Of no site.
    """

    ops: Mapping[str, int]
    conversions: tuple[Conversion, ...]
    rest: int


def attribute(estimate: Estimate, operators: Sequence[Operator]) -> Parts:
    """Give the cycles of each step to the site or the boundary that it belongs to.

    An operator of no site that is no conversion has its producer's format, or where nothing
    produces its input its reader's, and is counted there. So is a conversion with a site on one
    side alone: of the model's input or output.
    """
    graph = FileGraph(operators)
    ops: dict[str, int] = defaultdict(int)
    conversions: dict[int, int] = defaultdict(int)
    rest = 0
    for step in estimate.steps:
        if step.operator is None:
            rest += step.cycles
        elif graph.is_boundary(step.operator):
            conversions[step.operator] += step.cycles
        elif (site := graph.owner(step.operator)) is not None:
            ops[site] += step.cycles
        else:
            rest += step.cycles
    found = tuple(
        Conversion(*graph.boundary(operator), cycles, operators[operator].value)
        for operator, cycles in conversions.items()
    )
    return Parts(dict(ops), found, rest)


def find_edges(operators: Sequence[Operator]) -> tuple[Edge, ...]:
    """List each site with the sites whose tensors it reads, (writer, reader), in file order."""
    graph = FileGraph(operators)
    found: dict[Edge, None] = {}
    for index, operator in enumerate(operators):
        for writer in graph.writers(index):
            if operator.sites and writer not in operator.sites:
                found[writer, operator.sites[0]] = None
    return tuple(found)


class FileGraph:
    """Who reads what in a file, through operators of no site."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        self._operators = operators
        self._producer = {
            tensor: index for index, item in enumerate(operators) for tensor in item.outputs
        }
        self._consumers: dict[int, list[int]] = defaultdict(list)
        for index, item in enumerate(operators):
            for tensor in item.inputs:
                self._consumers[tensor].append(index)

    def writers(self, index: int) -> tuple[str, ...]:
        """Sites whose tensors an operator reads."""
        return tuple(dict.fromkeys(self._upstream(index)))

    def readers(self, index: int) -> tuple[str, ...]:
        """Sites that read what an operator writes."""
        return tuple(dict.fromkeys(self._downstream(index)))

    def is_boundary(self, index: int) -> bool:
        """Whether an operator is a conversion between two different sites."""
        if not self._operators[index].is_conversion:
            return False
        writer, readers = self._ends(index)
        return writer is not None and bool(readers)

    def boundary(self, index: int) -> tuple[str, tuple[str, ...]]:
        """Writer and readers of a conversion between two different sites."""
        writer, readers = self._ends(index)
        if writer is None:
            raise ValueError(f"operator {index} is no boundary")
        return writer, readers

    def owner(self, index: int) -> str | None:
        """The site whose format an operator has; None where no site is near."""
        before = dict.fromkeys(self._upstream(index, through_conversions=False))
        near = (*self._operators[index].sites, *before, *self.readers(index), *self.writers(index))
        return near[0] if near else None

    def _ends(self, index: int) -> tuple[str | None, tuple[str, ...]]:
        writer = next(iter(self.writers(index)), None)
        return writer, tuple(reader for reader in self.readers(index) if reader != writer)

    def _upstream(self, index: int, *, through_conversions: bool = True) -> Iterator[str]:
        for tensor in self._operators[index].inputs:
            before = self._producer.get(tensor)
            if before is None:
                continue
            source = self._operators[before]
            if source.sites:
                yield source.sites[-1]
            elif through_conversions or not source.is_conversion:
                yield from self._upstream(before, through_conversions=through_conversions)

    def _downstream(self, index: int) -> Iterator[str]:
        for tensor in self._operators[index].outputs:
            for after in self._consumers[tensor]:
                sites = self._operators[after].sites
                if sites:
                    yield sites[0]
                else:
                    yield from self._downstream(after)
