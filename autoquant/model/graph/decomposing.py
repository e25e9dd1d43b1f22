"""`run_decompositions` in less time: what torch registers for it is kept between runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_impls import op_implementations_dict as fake_rules
from torch.export import ExportedProgram, exported_program

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_LIST, _REGISTER = "_collect_all_valid_cia_ops", "_override_composite_implicit_decomp"

_Function = Callable[..., Any]
_List = Callable[[], set[OpOverload]]
_Register = Callable[[Mapping[OpOverload, _Function]], AbstractContextManager[None]]


def decomposed(program: ExportedProgram, table: dict[Any, _Function]) -> ExportedProgram:
    """Give `program.run_decompositions(table)`.

    For each run torch lists the composite ops of every library, gives each of these five hundred
    two dozen kernels and takes them away again, which is half the time of a small model. For this
    run alone its two functions that do so are replaced by such as remember what they found; a
    torch without functions of these names runs as it is.
    """
    listing = getattr(exported_program, _LIST, None)
    registering = getattr(exported_program, _REGISTER, None)
    if listing is None or registering is None:
        return _run(program, table)
    with (
        patch.object(exported_program, _LIST, lambda: _listed(listing)),
        patch.object(exported_program, _REGISTER, lambda ops: _registered(ops, registering)),
    ):
        return _run(program, table)


def _run(program: ExportedProgram, table: dict[Any, _Function]) -> ExportedProgram:
    found: ExportedProgram = program.run_decompositions(table)
    return found


def _listed(listing: _List) -> set[OpOverload]:
    """The composite ops; looked for again once a library has registered another."""
    known = torch._C._dispatch_get_registrations_for_dispatch_key(_COMPOSITE.name)
    return set(_listed_of((*torch.ops._dir, *known), listing))


@lru_cache(maxsize=1)
def _listed_of(names: tuple[str, ...], listing: _List) -> frozenset[OpOverload]:  # noqa: ARG001
    return frozenset(listing())


@contextmanager
def _registered(ops: Mapping[OpOverload, _Function], registering: _Register) -> Iterator[None]:
    """Have composite ops do within what they are given; torch does those with a rule of their own.

    After the first time these are none, since torch takes the rule away too.
    """
    ruled = {op: how for op, how in ops.items() if op in fake_rules}
    outside = {op: dict(op.py_kernels) for op in ops if op not in ruled}
    with registering(ruled):
        try:
            for op, before in outside.items():
                kernels, fake_rules[op] = _kernels_within(
                    op, frozenset(before.items()), registering
                )
                _set_kernels(op, {**kernels, _COMPOSITE: ops[op]})
            yield
        finally:
            for op, before in outside.items():
                _set_kernels(op, before)
                fake_rules.pop(op, None)


def _set_kernels(op: OpOverload, kernels: Mapping[Any, _Function]) -> None:
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()


@lru_cache(maxsize=4096)
def _kernels_within(
    op: OpOverload,
    outside: frozenset[tuple[Any, _Function]],  # noqa: ARG001
    registering: _Register,
) -> tuple[Mapping[Any, _Function], _Function]:
    """The kernels that torch gives an op, and its rule for fake tensors; by those it has before."""
    with registering({op: op.decompose}):
        return dict(op.py_kernels), fake_rules[op]
