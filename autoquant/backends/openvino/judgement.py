"""What runs, compared with what was planned."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.backends.openvino.engine import quantizes_dynamically
from autoquant.backends.openvino.readback import EIGHT_BITS, FOUR_BITS, Execution
from autoquant.core.plan import Plan
from autoquant.core.precision import BY_GROUP, Mode, Scheme
from autoquant.core.readback import Ran
from autoquant.core.sites import OpKind, Site

_ELEMENTWISE = frozenset({OpKind.ADD, OpKind.MUL})
_IN_FLOAT = frozenset({OpKind.ACTIVATION, OpKind.NORM, OpKind.POOL})
_FLOATS = frozenset({Scheme.BF16, Scheme.FP32})
_BY_SIZE: Mapping[int | None, Scheme] = {scheme.group: scheme for scheme in BY_GROUP}
"""By weights that share a scale."""
_FORMATS = {"bf16": Scheme.BF16, "f32": Scheme.FP32, "f16": Scheme.FP16}


class Judge:
    """Turns what the engine says of its kernels into schemes of sites.

    Sums, products and activations have no arithmetic of their own in a kernel: it holds them in
    f32 registers, whatever it reads. Their precision is that of what they read and write in
    memory; where they read nothing, because another op's kernel holds all of it, they have none
    and fit every plan. So do factors and shifts that the engine folds into a weight.

    Args:
        sites: By name.
        executions: By site; what the engine removed is not there.
        unnamed: What runs where the engine names nothing: fp32 where no op of the model is free
            to be anything else.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        executions: Mapping[str, Execution],
        unnamed: tuple[Scheme, ...] = (),
    ) -> None:
        self._unnamed = unnamed
        self._sites = sites
        self._executions = executions

    @classmethod
    def of(
        cls, plan: Plan, sites: Mapping[str, Site], executions: Mapping[str, Execution]
    ) -> Judge:
        """Of the sites of a plan."""
        floats = Scheme.BF16 not in plan.schemes.values()
        return cls(sites, executions, (Scheme.FP32,) if floats else ())

    def fits(self, name: str) -> tuple[Scheme, ...]:
        """The schemes that what a site runs may be called, the most telling first."""
        site, execution = self._sites[name], self._executions.get(name)
        if execution is None or (execution.host is not None and site.follows is not None):
            if site.follows is not None:
                return self.fits(site.follows)
            folded = site.kind in _ELEMENTWISE and len(site.input_shapes) == 1
            return (Scheme.FP32, Scheme.BF16) if folded else self._unnamed
        if site.kind in _ELEMENTWISE:
            return _elementwise(execution, len(site.input_shapes))
        if site.kind is OpKind.ACTIVATION and execution.host is not None:
            return (Scheme.BF16, Scheme.FP32)
        if site.kind is OpKind.ATTENTION:
            return _masked(execution)
        if execution.layer == "Subgraph":
            rounded = any(item in EIGHT_BITS for item in execution.written)
            return (Scheme.INT8,) if rounded else _masked(execution)
        found = _weighted(site, execution) if site.kind.is_weighted else _named(execution.runs)
        return () if found is None else (found,)

    def accepts(self, name: str, planned: Scheme) -> frozenset[Scheme]:
        """What may run for a plan: what was planned, or what no plan could better; `read` tells.

        What is neither weighted nor a matmul may compute in fp32 for bf16: OpenVINO keeps the
        last ops before an output in f32, and so does a convolution what it absorbs. Activations,
        norms and pools that follow an integer site have no integer kernel, and compute in either
        float format. A concatenation moves values, rounded to 8 bits before it or after.
        """
        site, found = self._sites[name], {planned}
        if site.kind.is_weighted or site.kind is OpKind.MATMUL:
            return frozenset(found)
        if planned is Scheme.BF16:
            found.add(Scheme.FP32)
        if site.kind is OpKind.CAT and planned in _FLOATS:
            found.add(Scheme.INT8)
        between_floats = planned.mode is not Mode.STATIC
        in_float = between_floats or (planned is Scheme.INT8 and site.kind in _IN_FLOAT)
        if site.follows is not None and in_float:
            found |= _FLOATS
        return frozenset(found)

    def read(self, plan: Plan) -> dict[str, Ran]:
        """What every site runs: as planned, or else as accepted, where that is a name for it."""
        return {site: self._ran(site, planned) for site, planned in plan.assignment}

    def _ran(self, name: str, planned: Scheme) -> Ran:
        fits = self.fits(name)
        if not fits:
            return Ran(None, kernel="nothing that the engine names")
        accepted = self.accepts(name, planned)
        fitting = [item for item in fits if item in accepted]
        scheme = planned if planned in fits else next(iter(fitting or fits))
        execution = self._executions.get(name)
        return Ran(scheme, kernel=execution.kernel if execution is not None else "")


def _named(precision: str) -> Scheme | None:
    return Scheme.INT8 if precision in EIGHT_BITS else _FORMATS.get(precision)


def _weighted(site: Site, execution: Execution) -> Scheme | None:
    looked_up = site.kind in (OpKind.EMBEDDING, OpKind.EMBEDDING_BAG)
    reads = None if looked_up or not execution.reads else execution.reads[0]
    if reads in EIGHT_BITS:
        return Scheme.INT8
    if execution.weight in FOUR_BITS:
        is_kept_float = execution.weight == "u4"
        return _BY_SIZE.get(execution.group) if is_kept_float else None
    if execution.weight not in EIGHT_BITS:
        return _named(execution.runs if reads is None else reads)
    signed = execution.weight == "i8"
    if signed and not looked_up and quantizes_dynamically(site.weight_row):
        return Scheme.INT8_DYNAMIC
    return Scheme.INT8_WEIGHT_ONLY


def _masked(execution: Execution) -> tuple[Scheme, ...]:
    """The format that an attention reads, or a product in a subgraph with its mask and softmax.

    Its kernel is said to run in the format of its mask, and may write what the next op reads.
    """
    for scheme in (Scheme.BF16, Scheme.FP32):
        if scheme.value.replace("fp", "f") in execution.reads:
            return (scheme,)
    found = _named(execution.runs)
    return () if found is None else (found,)


def _elementwise(execution: Execution, operands: int) -> tuple[Scheme, ...]:
    """What a sum or product may be called, by what it reads beside accumulators and writes.

    A kernel reads for the ops that it takes in one by one, in the order in which it computes them.
    """
    own = slice(execution.ahead, execution.ahead + operands - (execution.host is not None))
    reads, written = execution.reads[own], execution.written[own]
    if not reads:
        return (Scheme.FP32, Scheme.BF16)
    if any(item in EIGHT_BITS for item in written):
        return (Scheme.INT8,)
    fits = []
    if "bf16" in (*reads, execution.writes):
        fits.append(Scheme.BF16)
    if execution.writes != "bf16":
        fits.append(Scheme.FP32)
    return tuple(fits)
