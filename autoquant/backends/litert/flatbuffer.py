"""A plan written as a `.tflite` file, from the converted float file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from autoquant.backends.litert.constants import Constants
from autoquant.backends.litert.formats import Formats
from autoquant.backends.litert.operators import MOVES, RUNS, WEIGHTED
from autoquant.backends.litert.origins import Origins
from autoquant.backends.litert.schema import Graph
from autoquant.backends.litert.writer import PlanWriter, WrittenOperator
from autoquant.core.precision import Scheme


class Boundary(Enum):
    """In which type the file takes its inputs and gives its outputs.

    FLOAT: float32, as the model does. PLAN: as the first and last operators compute, which spares
    an accelerator the conversions.
    """

    FLOAT = "float"
    PLAN = "plan"


@dataclass(frozen=True, slots=True, eq=False)
class FloatFile:
    """The float model, converted for one batch size.

    Attributes:
        content: The file.
        graph: The same, unpacked; never changed.
        origins: What its tensors and operators stand for.
        formats: Of its tensors.
        constants: Its weights, rounded; kept from plan to plan.
        batch: How many samples it takes.
    """

    content: bytes
    graph: Graph
    origins: Origins
    formats: Formats
    constants: Constants
    batch: int


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A plan as a file.

    Attributes:
        content: The file.
        operators: One for each of its operators, in execution order.
    """

    content: bytes
    operators: tuple[WrittenOperator, ...]


def write_plan(
    file: FloatFile,
    schemes: Mapping[str, Scheme],
    boundary: Boundary = Boundary.FLOAT,
    metadata: Mapping[str, bytes] | None = None,
) -> Written:
    """Give each operator the type of its site's scheme, and convert where neighbours differ.

    Operators that only move values keep their input's format. Operators that have no kernel for
    their scheme, or whose tensors have no range, stay float32: the read-back tells.
    """
    chosen = operator_schemes(file, schemes)
    floats = file.graph.outputs if boundary is Boundary.FLOAT else []
    writer = PlanWriter(file.graph, file.origins, file.formats, file.constants, floats)
    if boundary is Boundary.PLAN:
        writer.take_inputs_as(chosen)
    writer.write(chosen)
    writer.return_floats()
    for name, content in (metadata or {}).items():
        writer.graph.add_metadata(name, content)
    return Written(writer.finished(), tuple(writer.table))


def operator_schemes(file: FloatFile, schemes: Mapping[str, Scheme]) -> dict[int, Scheme]:
    """Scheme of each operator that computes; those that only move values have none.

    The operators of one captured node run as one: where one of them has no kernel, or a tensor
    between them no range, all stay float32.
    """
    graph, origins = file.graph, file.origins
    members: dict[str, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        if graph.op_name(operator) not in MOVES and index in origins.ends:
            members.setdefault(origins.ends[index], []).append(index)
    chosen: dict[int, Scheme] = {}
    for end, indices in members.items():
        wanted = {schemes[site] for site in origins.deciding[end]}
        scheme = wanted.pop() if len(wanted) == 1 else Scheme.FP32
        runs = all(_can_run(file, index, scheme) for index in indices)
        chosen.update(dict.fromkeys(indices, scheme if runs else Scheme.FP32))
    return chosen


def _can_run(file: FloatFile, index: int, scheme: Scheme) -> bool:
    if scheme is Scheme.FP32:
        return True
    graph = file.graph
    operator = graph.operators[index]
    name = graph.op_name(operator)
    if name not in RUNS.get(scheme, frozenset()):
        return False
    tensors = [*graph.reads(operator), *graph.writes(operator)]
    floats = [t for t in tensors if t >= 0 and graph.type_name(t) == "FLOAT32"]
    if name in WEIGHTED and not graph.is_constant(graph.reads(operator)[WEIGHTED[name].weight]):
        return False
    return all(
        graph.is_constant(tensor) or file.formats.of(tensor, scheme) is not None
        for tensor in floats
    )
