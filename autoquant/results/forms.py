"""Files of a result folder that hold one value each: how it is written, and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from autoquant.core.build import BuildSettings
from autoquant.core.costs import CostTable
from autoquant.core.json_values import value_of
from autoquant.core.measurement import Measurement, Measurements
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import StorageError
from autoquant.results import files
from autoquant.results.costs_file import read_costs, write_costs
from autoquant.results.findings import SearchFacts
from autoquant.results.sensitivity_file import read_sensitivity, write_sensitivity
from autoquant.results.statistics_file import read_statistics, write_statistics
from autoquant.results.storage import (
    damaged,
    missing,
    read_document,
    read_mapping,
    rebuild,
    well_formed,
    write_bytes,
    write_document,
    write_json,
)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Form(Generic[Value]):
    """How a value is kept in a folder: the name of its file, and what writes and reads it."""

    name: str
    write: Callable[[Path, Value], None]
    read: Callable[[Path], Value]

    def save(self, folder: Path, value: Value) -> None:
        """Keep a value.

        Raises:
            StorageError: The file cannot be written.
        """
        self.write(folder / self.name, value)

    def load(self, folder: Path) -> Value:
        """Read the value back, exactly.

        Raises:
            StorageError: The file is missing or damaged.
        """
        return self.read(folder / self.name)

    def find(self, folder: Path) -> Value | None:
        """The same; None where there is no such file."""
        return self.load(folder) if (folder / self.name).exists() else None

    def known(self, folder: Path | None) -> Value | None:
        """What an earlier process kept; None where there is none that can be read."""
        try:
            return None if folder is None else self.load(folder)
        except StorageError:
            return None


def _document(name: str, make: Callable[[dict[str, Any]], Value]) -> Form[Value]:
    """A value as a JSON object that carries its format's version."""
    return Form(name, write_document, partial(rebuild, make=make))


def _write_sites(path: Path, sites: Sequence[Site]) -> None:
    write_document(path, {"sites": sites})


def _sites(document: Mapping[str, Any]) -> Sequence[Site]:
    return value_of(tuple[Site, ...], document["sites"])


def _read_baseline(path: Path) -> Measurements:
    document = read_mapping(path)
    with well_formed(path):
        return value_of(dict[str, Measurement], document)


def _write_example(path: Path, example: Sequence[Tensor]) -> None:
    """Keep tensors by position (`"0"`, `"1"`...)."""
    arrays = (np.ascontiguousarray(item.cpu().numpy()) for item in example)
    write_bytes(path, save({str(place): item for place, item in enumerate(arrays)}))


def _read_example(path: Path) -> Sequence[Tensor]:
    if not path.is_file():
        raise missing(path)
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    return tuple(torch.from_numpy(arrays[str(place)]) for place in range(len(arrays)))


FACTS = _document(files.FACTS, SearchFacts.from_json)
ENVIRONMENT: Form[Mapping[str, Any]] = Form(files.ENVIRONMENT, write_json, read_mapping)
SITES: Form[Sequence[Site]] = Form(files.SITES, _write_sites, partial(rebuild, make=_sites))
SPACE = _document(files.SPACE, partial(value_of, SearchSpace))
BASELINE: Form[Measurements] = Form(files.BASELINE, write_json, _read_baseline)
STATISTICS: Form[CalibrationStatistics] = Form(files.STATISTICS, write_statistics, read_statistics)
BUILD = _document(files.BUILD, BuildSettings.from_json)
CALLING: Form[Mapping[str, Any]] = Form(files.CALLING, write_document, read_document)
EXAMPLE: Form[Sequence[Tensor]] = Form(files.EXAMPLE, _write_example, _read_example)
COSTS: Form[CostTable] = Form(files.COSTS, write_costs, read_costs)
SENSITIVITY: Form[SensitivityTable] = Form(files.SENSITIVITY, write_sensitivity, read_sensitivity)
SENSITIVITY_UNFINISHED = replace(SENSITIVITY, name=files.SENSITIVITY_UNFINISHED)
