"""Vela's compiler, called in this process: a `.tflite` file -> cycles of each of its operators."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ethosu import regor

from autoquant.backends.litert.ethos_u.configuration import Configuration
from autoquant.backends.printing import STDOUT, captured_prints
from autoquant.errors import BackendError

_ON_CPU = "Passthrough"
"""What Vela's table calls an operator that it leaves to the CPU, at no cycles."""
_REASON = re.compile(r"Warning \(supported operators\) operator: \w+, ofm: '(.*)'\nReason: (.*)\n")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that the compiled file does.

    Attributes:
        operator: Index of the operator of the file that it comes from; None where Vela made it.
        kind: Of operation, by Vela's name (`Conv2D`).
        cycles: Vela's estimate, memory transfers included.
        name: Of the tensor that it writes.
    """

    operator: int | None
    kind: str
    cycles: int
    name: str = ""

    @property
    def is_on_cpu(self) -> bool:
        """Whether the NPU leaves it to the CPU, whose time nobody estimates."""
        return self.kind == _ON_CPU


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What Vela says of a file.

    Attributes:
        cycles: Of one inference; the sum over `steps`.
        steps: In order of execution.
        reasons: By the name of a step, why it is left to the CPU.
    """

    cycles: int
    steps: tuple[Step, ...]
    reasons: Mapping[str, str]


def estimate(file: bytes, configuration: Configuration) -> Estimate:
    """Compile a `.tflite` file for an NPU and read the compiler's own table of cycles.

    The numbers are those of Vela's command line (`--verbose-performance`).
    """
    with captured_prints(STDOUT) as said:
        try:
            compiled = regor.compile(
                configuration.family,
                file,
                "TFLITE",
                configuration.description,
                options=configuration.options,
                verbose=False,
            )
        except RuntimeError as error:
            raise BackendError(
                f"Vela refuses the file for {configuration}: {' '.join(str(error).split())}",
                hint="pin the op that it names to the other scheme, or take another accelerator",
            ) from error
    tables = compiled.opt_database.tables
    operators = {int(row["id"]): int(row["ext_key"]) for row in _rows(tables["source"])}
    steps = tuple(
        Step(
            operators.get(int(row["source_id"])),
            row["operator"],
            int(row["op_cycles"]),
            row["name"],
        )
        for row in _rows(tables["perf"])
    )
    return Estimate(int(compiled.perf_report.totalCycles), steps, dict(_REASON.findall(said[0])))


def _rows(table: Any) -> Iterator[dict[str, str]]:
    for row in table.data:
        yield dict(zip(table.header, row, strict=False))
