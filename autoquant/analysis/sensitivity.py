"""Sensitivity: each knob and scheme alone, weight and activation apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.core.sites import Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.batches import Batch, take_samples
from autoquant.model.capture import Capture
from autoquant.model.subject import output_rows
from autoquant.model.torch_ao.rounding import SchemeRounding

METHOD = "one knob at a time, reference numerics, float prefix shared"
_CHUNK = 32
_FLOOR = 1e-15


@dataclass(frozen=True, slots=True)
class Trial:
    """One row to measure."""

    knob: Knob
    scheme: Scheme
    part: Part


def list_trials(space: SearchSpace, sites: Mapping[str, Site]) -> tuple[Trial, ...]:
    """Every knob and scheme but fp32; weights and activations apart where there are weights."""
    trials = []
    for knob in space.free:
        weighted = any(sites[name].kind.is_weighted for name in knob.sites)
        parts = (Part.BOTH, Part.WEIGHT, Part.ACTIVATION) if weighted else (Part.BOTH,)
        for scheme in knob.schemes:
            if scheme is not Scheme.FP32:
                trials += [Trial(knob, scheme, part) for part in parts]
    return tuple(trials)


def measure_sensitivity(
    captured: Capture,
    space: SearchSpace,
    rounding: SchemeRounding,
    batches: Sequence[Batch],
    samples: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> SensitivityTable:
    """Measure the output error that each knob and scheme causes alone.

    Everything else stays in float, and everything upstream of the knob is computed once: only
    what lies downstream of it runs again. Numerics are the reference computation (rounding to
    the scheme's grid at the same scales as the candidates); the rows are emulated.

    Args:
        captured: The captured model.
        space: Knobs and their schemes.
        rounding: Rounds tensors as schemes do.
        batches: Evaluation data.
        samples: How many of them to use.
        progress: Called with the number of rows done, once for each chunk of samples and row.
    """
    sites = {site.name: site for site in captured.sites}
    trials = list_trials(space, sites)
    sums = [_Sums() for _ in trials]
    runner = _Runner(captured, sites, rounding)
    chunks = list(_chunks(take_samples(batches, samples)))
    with torch.no_grad():
        for batch in chunks:
            expected = runner.run_float(batch)
            for trial, row in zip(trials, sums, strict=True):
                row.add(expected, runner.run_trial(trial, batch))
                progress(1)
    return SensitivityTable(
        rows=tuple(row.finish(trial) for trial, row in zip(trials, sums, strict=True)),
        method=METHOD,
        samples=sum(len(batch) for batch in chunks),
    )


def chunk_count(batches: Sequence[Batch], samples: int) -> int:
    """How many chunks `measure_sensitivity` will run, for a progress bar's total."""
    return sum(1 for _ in _chunks(take_samples(batches, samples)))


def _chunks(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Split batches so that all tensors of the network fit in memory at once."""
    for batch in batches:
        for start in range(0, len(batch), _CHUNK):
            yield Batch(tuple(item[start : start + _CHUNK] for item in batch.inputs))


class _Runner(Interpreter):
    """Runs the float graph, then again with one knob rounded, from where that knob begins."""

    def __init__(
        self, captured: Capture, sites: Mapping[str, Site], rounding: SchemeRounding
    ) -> None:
        super().__init__(captured.graph, garbage_collect_values=False)
        self._captured = captured
        self._sites = sites
        self._rounding = rounding
        self._order = list(captured.graph.graph.nodes)
        self._nodes = {node.name: node for node in self._order}
        self._float: dict[Node, Any] = {}
        self._inner_nodes = {
            site: [name for group in groups for name in group[:-1]]
            for site, groups in captured.members.items()
        }

    def run_float(self, batch: Batch) -> list[Tensor]:
        """Run in float and keep every value."""
        outputs = self.run(*batch.inputs)
        self._float = dict(self.env)
        return output_rows(outputs, batch)

    def run_trial(self, trial: Trial, batch: Batch) -> list[Tensor]:
        """Run what a knob's rounding reaches; the rest is the float run's."""
        roots, lasts = self._marks(trial)
        self.env = dict(self._float)
        dirty: set[Node] = set()
        outputs: Any = None
        for node in self._order:
            if node.op == "placeholder" or not (
                node in roots or node in lasts or any(n in dirty for n in node.all_input_nodes)
            ):
                continue
            dirty.add(node)
            site = roots.get(node)
            value = (
                self.run_node(node) if site is None else self._run_rounded(node, site, trial, lasts)
            )
            if node in lasts and trial.part is not Part.WEIGHT:
                value = self._rounding.output(lasts[node], trial.scheme, node.name, value)
            self.env[node] = value
            if node.op == "output":
                outputs = value
        if outputs is None:
            outputs = self.run_node(self._order[-1])
        return output_rows(outputs, batch)

    def _marks(self, trial: Trial) -> tuple[dict[Node, Site], dict[Node, Site]]:
        """Root nodes of the knob's sites, and the nodes whose outputs it rounds.

        The latter are the last node of each site, and the nodes that hand its format on.
        """
        members = {name: site for site in trial.knob.sites for name in self._inner_nodes[site]}
        roots = {
            self._nodes[group[0]]: self._sites[site]
            for site in trial.knob.sites
            for group in self._captured.members[site]
        }
        lasts = {
            self._nodes[address.node]: self._sites[address.site]
            for address in self._captured.addresses
            if address.site in trial.knob.sites
            and address.node not in members
            and isinstance(self._float[self._nodes[address.node]], Tensor)
            and address.node not in self._captured.no_tensors
        }
        return roots, lasts

    def _run_rounded(self, node: Node, site: Site, trial: Trial, own: Mapping[Node, Site]) -> Any:
        """Run one op on rounded inputs and weights."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        rounded = {
            id(self.env[source]): self._round_operand(source, site, trial, own)
            for source in node.all_input_nodes
            if isinstance(self.env[source], Tensor) and self.env[source].is_floating_point()
        }
        args, kwargs = pytree.tree_map(lambda item: rounded.get(id(item), item), (args, kwargs))
        if trial.scheme is Scheme.BF16 and trial.part is Part.BOTH:
            return self._run_bfloat16(node, args, kwargs)
        if node.op == "call_module" and trial.part is not Part.ACTIVATION:
            module = self.fetch_attr(str(node.target))
            return functional_call(module, self._round_weights(module, site, trial), args, kwargs)
        return getattr(self, node.op)(node.target, args, kwargs)

    def _run_bfloat16(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run one op in bf16: its kernel accumulates and adds its bias in its own way."""
        args, kwargs = pytree.tree_map(_to_bfloat16, (args, kwargs))
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            state = {name: _to_bfloat16(item) for name, item in module.state_dict().items()}
            value = functional_call(module, state, args, kwargs)
        else:
            value = getattr(self, node.op)(node.target, args, kwargs)
        return pytree.tree_map(lambda item: item.float() if _is_float(item) else item, value)

    def _round_operand(
        self, source: Node, site: Site, trial: Trial, own: Mapping[Node, Site]
    ) -> Tensor:
        """An input as the scheme rounds it; a functional op's weight counts as weight."""
        value: Tensor = self.env[source]
        if source.op == "get_attr":
            is_weight = value.ndim > 1 and trial.part is not Part.ACTIVATION
            return self._rounding.weight(site, trial.scheme, value) if is_weight else value
        if trial.part is Part.WEIGHT or source in own:
            return value
        return self._rounding.input(site, trial.scheme, source.name, value)

    def _round_weights(self, module: nn.Module, site: Site, trial: Trial) -> dict[str, Tensor]:
        return {
            name: self._rounding.weight(site, trial.scheme, parameter.detach())
            for name, parameter in module.named_parameters()
            if name.rpartition(".")[2].startswith("weight")
        }


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _to_bfloat16(value: Any) -> Any:
    return value.to(torch.bfloat16) if _is_float(value) else value


@dataclass(slots=True)
class _Sums:
    """Running sums of one row, over samples."""

    signal: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    absolute: list[Tensor] = field(default_factory=list)
    cosine: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    elements: int = 0

    def add(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Take in the outputs of one batch, each of shape (batch, elements)."""
        want, have = torch.cat(list(expected), 1).double(), torch.cat(list(found), 1).double()
        self.elements = want.shape[1]
        self.signal.append((want**2).sum(1))
        self.noise.append(((want - have) ** 2).sum(1))
        self.absolute.append((want - have).abs().sum(1))
        self.cosine.append(torch.cosine_similarity(want, have, dim=1))
        log_p = torch.log_softmax(expected[0].double(), 1)
        log_q = torch.log_softmax(found[0].double(), 1)
        self.kl.append((log_p.exp() * (log_p - log_q)).sum(1))

    def finish(self, trial: Trial) -> SensitivityRow:
        """Give the row."""
        signal, noise = torch.cat(self.signal), torch.cat(self.noise)
        count = len(signal)
        ratio = float(noise.sum() / signal.sum().clamp_min(1e-300))
        residual = noise - ratio * signal
        spread = math.sqrt(count / max(count - 1, 1) * float((residual**2).sum()))
        return SensitivityRow(
            knob=trial.knob.name,
            scheme=trial.scheme,
            part=trial.part,
            sqnr_db=-10.0 * math.log10(max(ratio, _FLOOR)),
            cosine=float(torch.cat(self.cosine).mean()),
            mse=float(noise.mean()) / self.elements,
            l1=float(torch.cat(self.absolute).mean()) / self.elements,
            kl=float(torch.cat(self.kl).mean()),
            noise=ratio,
            noise_stderr=spread / float(signal.sum().clamp_min(1e-300)),
        )
