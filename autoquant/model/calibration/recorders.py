"""Recorders: run the float model on a batch and show each tensor to its observers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Interpreter, Node

from autoquant.errors import DataError
from autoquant.model.calibration.ranges.observation import TensorObserver
from autoquant.model.graph.captured import INPUT_OF, Capture
from autoquant.model.graph.channel_axes import channel_axes
from autoquant.model.graph.masks import MaskedNodes, is_lowest
from autoquant.model.graph.module_calls import first_tensor, result_tensor, watch_calls
from autoquant.model.graph.module_capture import whole_model
from autoquant.model.graph.same_values import reshaped_sources
from autoquant.model.graph.scopes import scope_of
from autoquant.model.graph.site_nodes import mark_sites


def start_recorder(captured: Capture) -> GraphRecorder | ModuleRecorder:
    """Give the recorder for a capture."""
    return ModuleRecorder(captured) if captured.how == "modules" else GraphRecorder(captured)


class GraphRecorder(Interpreter):
    """Runs a graph node by node; keys are the names of its nodes.

    What lies within a site is not observed, since nothing rounds there, nor are tensors of an
    exported graph whose largest values a mask put there: no range of theirs would mean anything,
    and capture makes no sites of what reads or writes them. A reshaped tensor has the statistics
    of the tensor whose values it holds. A constant that a site reads beside its weights is seen
    once.
    """

    def __init__(self, captured: Capture) -> None:
        super().__init__(captured.graph)
        self.batch = 0
        self.observers: dict[str, TensorObserver] = {}
        self._masked = MaskedNodes()
        self._inner = captured.inner_nodes
        self._axes = channel_axes(captured.graph)
        self._reshaped = reshaped_sources(captured.graph)
        self._constants = {
            self._reshaped.get(read.name, read.name)
            for operands in mark_sites(captured).operands.values()
            for read in operands.reads
        }

    def run_node(self, node: Node) -> object:
        """Run one node and observe what it gives."""
        try:
            value: object = super().run_node(node)
        except Exception as error:
            raise _failure(self.batch, f" at {node.name}: {error}") from error
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        masked = self._masked.take(node, value)
        if masked and (node.name not in self.observers or is_lowest(value)):
            return value
        if node.op == "get_attr":
            if node.name in self._constants and self.batch == 0:
                self._observe(node, value)
        elif node.op != "output" and node.name not in self._inner:
            self._observe(node, value)
        return value

    def _observe(self, node: Node, value: Tensor) -> None:
        source = self._reshaped.get(node.name)
        if source in self.observers:
            self.observers[node.name] = self.observers[source]
            return
        scope = scope_of(node)
        named = f"{node.name} (of {scope})" if scope else node.name
        self.observers.setdefault(node.name, TensorObserver(self._axes[node.name]))
        _show(self.observers, node.name, value, self.batch, named)


class ModuleRecorder:
    """Runs a model as it is; keys are the paths of its sites, and with `@input` what these read."""

    def __init__(self, captured: Capture) -> None:
        self.batch = 0
        self.observers: dict[str, TensorObserver] = {}
        self._model = whole_model(captured)
        self._calling = captured.calling
        self._paths = [site.name for site in captured.sites]

    def run(self, *inputs: Tensor) -> Any:
        """Run one batch."""
        with watch_calls(self._model, self._paths, self._take_input, self._take_output):
            try:
                return self._calling.call(self._model, inputs)
            except DataError:
                raise
            except Exception as error:
                raise _failure(self.batch, f": {error}") from error

    def _take_input(self, path: str, args: tuple[Any, ...]) -> None:
        self._observe(f"{path}{INPUT_OF}", first_tensor(args))

    def _take_output(self, path: str, result: Any) -> None:
        self._observe(path, result_tensor(result))

    def _observe(self, key: str, value: Tensor | None) -> None:
        if value is not None and value.is_floating_point():
            _show(self.observers, key, value, self.batch, key)


def _failure(batch: int, where: str) -> DataError:
    return DataError(
        f"calibration batch {batch}: the model failed{where}",
        hint="give calibration batches of the shape and dtype that model.forward takes",
    )


def _show(
    observers: dict[str, TensorObserver], key: str, value: Tensor, batch: int, name: str
) -> None:
    """Show a tensor to its observer."""
    if value.numel() == 0:
        return
    try:
        observers.setdefault(key, TensorObserver()).observe(value)
    except ValueError as error:
        raise DataError(
            f"calibration batch {batch}: tensor {name} holds NaN or infinity",
            hint="check this batch's values and the model's weights",
        ) from error
