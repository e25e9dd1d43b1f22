"""The table of `autoquant backends`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from autoquant.backends.torch_cpu.engines import engines_here, saturates
from autoquant.backends.torch_cpu.support import support_of
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind

_STYLES = {Support.NATIVE: "green", Support.EMULATED: "yellow", Support.UNSUPPORTED: "dim"}


def support_tables() -> Iterator[Table]:
    """One table for each engine that runs here."""
    for engine in engines_here():
        bits = "7 bits, its kernels saturate here" if saturates(engine) else "8 bits"
        table = Table(title=f"torch / {engine} (int8 activations: {bits})", title_justify="left")
        table.add_column("op")
        for scheme in Scheme:
            table.add_column(scheme.value)
        for kind in OpKind:
            table.add_row(kind.value, *(_cell(support_of(engine, kind, item)) for item in Scheme))
        yield table


def _cell(support: Support) -> str:
    text = "-" if support is Support.UNSUPPORTED else support.value
    return f"[{_STYLES[support]}]{text}[/]"
