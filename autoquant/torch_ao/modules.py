"""A model whose modules torch quantized (eager, `quantize_dynamic`), beside its float graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.ao.nn.quantized import DeQuantize, Quantize

from autoquant.comparing.pairing import OpPair
from autoquant.comparing.runs import FloatWeight, Run, See, StoredWeight, first_tensor
from autoquant.core.findings.layers import TensorFormat
from autoquant.core.measurement import Kind
from autoquant.core.quiet import no_warnings
from autoquant.errors import ModelError
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.module_calls import watch_calls
from autoquant.torch_ao.fake_quantize import holds_fake_quantize
from autoquant.torch_ao.formats import class_name, format_of
from autoquant.torch_ao.quantized_run import like
from autoquant.torch_ao.stored_weights import stored_in, weights_stored_in
from autoquant.torch_ao.values import is_same, node_values

Call = tuple[str, int]
"""Path of a module, and which call of it, from 0."""

_STUBS = (ao.QuantStub, ao.DeQuantStub, Quantize, DeQuantize)

SeeCall = Callable[[Call, Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What one run of a model gave: by call, in the order in which calls end."""

    values: Mapping[Call, Tensor]
    kinds: Mapping[str, type]
    leaves: frozenset[str]


class ModulesQuantized:
    """What torch made of a float model, module by module.

    Both models run on an example. A module is paired with the node of the float graph whose value
    the module of the same path gives in the float model; what stands in the place of a module that
    was fused away (an Identity) was computed by the module called before it. Where paths differ (a
    wrapper), modules with weights are paired in the order of their calls.

    Args:
        model: The float model in eval mode; never changed.
        captured: Its exported graph.
        quantized: From `convert` or `quantize_dynamic`; put in eval mode.
        example: A few samples, flat.

    Raises:
        ModelError: `quantized` is a float model or fails, or none of its modules is of this model.
    """

    def __init__(
        self,
        model: nn.Module,
        captured: Capture,
        quantized: nn.Module,
        example: tuple[Tensor, ...],
    ) -> None:
        self._captured, self._calling = captured, captured.calling
        self._model = quantized.eval()
        _refuse_float(self._model)
        expected, found = self._watch(model, example), self._watch(self._model, example)
        first, second = _sizes(model, expected), _sizes(self._model, found)
        names: Mapping[str, str] = {path: path for path in found.kinds if path in expected.kinds}
        self.notices: tuple[str, ...] = ()
        if not names.keys() >= {path for path, size in second.items() if size}:
            names = _same_order(first, second)
            self.notices = (
                "the modules of the quantized model have other paths: paired are those of one "
                "place in the order of calls",
            )
        self._calls = dict(_pair(captured, example, _folded(expected, found, names), names))
        if not self._calls:
            raise ModelError(
                "no module of the quantized model computes what one of the float model does",
                hint="give the very model that it was made from, in eval mode",
            )

    @property
    def kind(self) -> Kind:
        """`emulated` where some of its roundings are simulated in float."""
        return Kind.EMULATED if holds_fake_quantize(self._model) else Kind.MEASURED

    def pairs(self) -> tuple[OpPair, ...]:
        """Its modules beside the ops of the captured graph, in execution order."""
        order = {name: place for place, name in enumerate(self._captured.nodes)}
        return tuple(sorted(self._calls.values(), key=lambda pair: order[pair.expected[-1]]))

    def start(self, see: See, *, feeds_float: bool) -> Run:
        """Make ready to run beside the captured graph."""

        def beside(inputs: tuple[Tensor, ...], expected: Mapping[str, Any]) -> Any:
            def show(call: Call, value: Any) -> Any:
                pair = self._calls.get(call)
                if pair is None:
                    return None
                wanted = expected[pair.expected[-1]]
                first, second = first_tensor(wanted), first_tensor(value)
                if first is not None and second is not None and first.shape == second.shape:
                    see(pair, first, second)
                return like(wanted, value) if feeds_float else None

            with no_warnings(), _watched(self._model, show):
                return self._calling.call(self._model, inputs)

        return beside

    def type_of(self, pair: OpPair) -> str:
        """Class of a module: `ConvReLU2d (quantized)`."""
        return class_name(self._model.get_submodule(pair.found[0]))

    def format_of(self, pair: OpPair, found: Tensor) -> TensorFormat:  # noqa: ARG002
        """How it keeps a module's tensor that was seen."""
        return format_of(found, None)

    def stored(self, weight: FloatWeight) -> StoredWeight | None:
        """What torch stores of a weight."""
        module = self._model.get_submodule(weight.pair.found[0])
        return stored_in(module, weight.name, (str(weight.root.target), class_name(module)))

    def _watch(self, model: nn.Module, example: tuple[Tensor, ...]) -> _Seen:
        values: dict[Call, Tensor] = {}

        def keep(call: Call, value: Any) -> None:
            tensor = first_tensor(value)
            if tensor is not None:
                values[call] = tensor.detach().clone()

        with no_warnings(), torch.no_grad(), _watched(model, keep):
            try:
                self._calling.call(model, tuple(item.clone() for item in example))
            except Exception as error:
                raise ModelError(
                    f"the quantized model fails on the data: {type(error).__name__}: {error}",
                    hint="give a model that runs on the same inputs as the float model",
                ) from error
        modules = dict(model.named_modules())
        leaves = frozenset(path for path in modules if not list(modules[path].children()))
        return _Seen(values, {path: type(item) for path, item in modules.items()}, leaves)


@contextmanager
def _watched(model: nn.Module, see: SeeCall) -> Iterator[None]:
    """Within, every call of a module is shown as it ends; what `see` gives replaces the result."""
    counts: Counter[str] = Counter()

    def show(path: str, value: Any) -> Any:
        call = path, counts[path]
        counts[path] += 1
        return see(call, value)

    paths = [path for path, _ in model.named_modules() if path]
    with watch_calls(model, paths, lambda *_: None, show):
        yield


def _refuse_float(model: nn.Module) -> None:
    kinds = (type(module) for module in model.modules())
    own = (type(item) for item in model.parameters())  # of torchao, tensors of their own class
    if (
        not any(".ao.nn." in kind.__module__ for kind in kinds)
        and not holds_fake_quantize(model)
        and all(kind in (Tensor, nn.Parameter) for kind in own)
    ):
        raise ModelError(
            f"the quantized model, a {type(model).__name__}, holds no module that torch quantized",
            hint="give what convert, quantize_dynamic, convert_fx or convert_pt2e returned, or a "
            "plan",
        )


def _same_order(first: Mapping[str, int], second: Mapping[str, int]) -> Mapping[str, str]:
    """By path in the quantized model that in the float model, in the order of first calls.

    All modules where they are as many, those that were fused away too; else those with weights.

    Args:
        first: By called module of the float model, how many elements its weights have.
        second: Of the quantized model.
    """
    if list(first.values()) != list(second.values()):
        first, second = ({k: size for k, size in item.items() if size} for item in (first, second))
    if not first or list(first.values()) != list(second.values()):
        raise ModelError(
            f"the quantized model has weights in {len(second)} modules, the float model in "
            f"{len(first)}, and neither their paths nor their order and sizes are the same",
            hint="give the very model that it was made from, in eval mode",
        )
    return dict(zip(second, first, strict=True))


def _sizes(model: nn.Module, seen: _Seen) -> dict[str, int]:
    """By called module that calls no other, how many elements its matrices hold, in order.

    What only quantizes or dequantizes is left out.
    """
    called = dict.fromkeys(path for path, _ in seen.values)
    outer = {path[: at.start()] for path in called for at in re.finditer(r"\.", path)}
    found = {}
    for path in called:
        if path not in outer and not issubclass(seen.kinds[path], _STUBS):
            stored = weights_stored_in(model.get_submodule(path)).values()
            found[path] = sum(item.numel() for item in stored if item.ndim > 1)
    return found


def _folded(expected: _Seen, found: _Seen, names: Mapping[str, str]) -> Mapping[Call, Tensor]:
    """By call of the float model, what its counterpart computes.

    A module whose place an Identity took belongs to the one that was called before it.
    """
    gone = {
        names[path]
        for path, kind in found.kinds.items()
        if path in names and kind is nn.Identity and expected.kinds[names[path]] is not kind
    }
    folded: dict[Call, Tensor] = {}
    before: Call | None = None
    for call, value in expected.values.items():
        if call[0] in gone and before is not None:
            folded[before] = value
        elif call[0] not in gone:
            folded[call] = value
            before = call if call[0] in expected.leaves else before
    return folded


def _pair(
    captured: Capture,
    example: tuple[Tensor, ...],
    computed: Mapping[Call, Tensor],
    names: Mapping[str, str],
) -> Iterator[tuple[Call, OpPair]]:
    """By call of the quantized model, its op."""
    paths = {other: path for path, other in names.items()}
    values = {
        name: tensor
        for name, value in node_values(captured.graph, example).items()
        if (tensor := first_tensor(value)) is not None and tensor.is_floating_point()
    }
    placed = {name: call for call in captured.calls for name in call.nodes}
    given = {node.name for node in captured.graph.graph.find_nodes(op="placeholder")}
    for (path, count), value in computed.items():
        if path not in paths:
            continue
        same = [name for name, other in values.items() if is_same(other, value)]
        same.sort(key=lambda name: name not in placed or placed[name][0].module != path)
        if not same:
            continue
        name = same[0]
        del values[name]
        found = (paths[path],)
        if name in placed:
            site, call, group = placed[name]
            expected = group[: group.index(name) + 1]
            yield (paths[path], count), OpPair(site.name, call, site, None, expected, found, ())
        else:
            op = f"input {name}" if name in given else name
            yield (paths[path], count), OpPair(op, 0, None, None, (name,), found, ())
