"""docs/models.md, from the results of zoo.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_models.registry import NAMED, SUBJECTS

Results = Mapping[str, Mapping[str, Any]]

_ENOUGH = 0.98

_HEAD = """# Models

What of other people's architectures works. `scripts/bench/zoo.py` wrote this page from results of

    scripts/bench/zoo_setup out/zoo-venv
    out/zoo-venv/bin/python scripts/bench/zoo.py --capture
    out/zoo-venv/bin/python scripts/bench/zoo.py --backend torch openvino onnxruntime

in an environment of its own: timm, torchvision, transformers, diffusers and others beside the
pinned torch. Weights are random (batch norms have the statistics of a batch) unless marked *real*:
then a package carries trained ones. Data are made up. Networks of timm and torchvision have their
true width and depth, on small images where they allow it; those of transformers and diffusers are
small.
"""

_CAPTURE = """## Capture

*Error* is the largest difference of any output between the exported graph and the model, at two
batch sizes of which neither was the traced one, over the largest value of that output: 0 is bit for
bit, in some of torch's attention modules without their fast path, as a note says. *Folded* is the
same after batch norms were folded into the layers before them, which rounds anew. *Weights* and
*MACs* are the shares of the weights that inference uses, and of the multiply-accumulates, that
sites hold. Seconds are CPU seconds of one busy core.
"""

_SEARCH = """## Search

A whole search each, on one thread and as small as it can be: int8, int8_dynamic, bf16 and fp32;
calibration and evaluation on 8 samples; on torch the engine x86. `effort: quick`: uniform plans and
few more. Rows without a version are older: a first round of six candidates, costs of ops from a
handful of plans. The all-fp32 plan is compared with the model first; in the end
the fastest plan of the frontier is exported and its file run by the engine's own API. *Seconds* are
CPU seconds from the call to the frontier, *peak* the largest memory of the process, the packages of
all engines included. *Speed* is over eager fp32 torch at batch 1, measured by the search and, after
it, by a clock of this script's own on what `quantize()` hands out (small networks at batch 1 are
mostly overhead, and the machine was busy: read no ranking out of it). *Reloaded* is the largest
difference of the file's outputs from that module's. *Version* is the commit that a row is of.
"""


def write_page(capture: Results, searches: Mapping[str, Results]) -> str:
    """The whole page in Markdown."""
    parts = [_HEAD]
    if capture:
        parts += [_CAPTURE, _capture_summary(capture), _capture_table(capture)]
    if any(searches.values()):
        parts.append(_SEARCH)
        parts += [
            part
            for backend, results in searches.items()
            if results
            for part in (
                f"### {backend}\n",
                _search_summary(results),
                _search_table(results, capture),
            )
        ]
    return "\n".join(parts)


def _capture_summary(results: Results) -> str:
    rows = list(results.values())
    taken = [row for row in rows if "failure" not in row]
    exact = sum(
        (row["error"] == 0 or row.get("slow_path_error") == 0) and row["sizes"] > 1 for row in taken
    )
    enough = sum(row["reach_weights"] >= _ENOUGH for row in taken)
    return (
        f"{len(taken)} of {len(rows)} are captured, {exact} bit for bit at both sizes; "
        f"{enough} with at least 98% of the weights.\n"
    )


def _capture_table(results: Results) -> str:
    head = ("Model", "From", "Sites", "Error", "Folded", "Weights", "MACs", "s", "Notes")
    rows = []
    for name, row in _in_order(results):
        if "failure" in row:
            rows.append((name, row["source"], "", "", "", "", "", "", f"**{row['failure']}**"))
            continue
        notes = [f"not seen: {', '.join(row['unseen'])}"] if row["reach_weights"] < _ENOUGH else []
        if row["error"] and row.get("slow_path_error") == 0:
            notes.append("bit for bit without the fast path of torch's attention")
        if row.get("own_rounding"):
            notes.append(
                "these random weights make any rounding grow: in float32 the model itself is "
                f"{row['own_rounding']:.0e} off from float64"
            )
        notes += [note for note in row["notices"] if not note.startswith("sites hold")]
        rows.append(
            (
                name,
                _source(row),
                str(row["sites"]),
                f"{row['error']:.0e}" if row["error"] else "0",
                f"{row['folded_error']:.0e}" if row["folded_error"] else "0",
                f"{row['reach_weights']:.1%}",
                f"{row['reach_macs']:.1%}",
                f"{row['seconds']:.0f}",
                "; ".join(notes),
            )
        )
    return _table(head, rows)


def _search_summary(results: Results) -> str:
    rows = list(results.values())
    worked = sum(works(row) for row in rows)
    kinds = Counter(row["failure"].split(":")[0] for row in rows if "failure" in row)
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    left = [name for name in NAMED if name not in results]
    untried = f"\n\nNot tried, of those that the goals name: {', '.join(left)}." if left else ""
    return (
        f"{worked} of {len(rows)} tried work end to end{f' ({said})' if said else ''}.{untried}\n"
    )


def works(row: Mapping[str, Any]) -> bool:
    """Whether a search ended in a frontier whose exported file gives the same."""
    return "failure" not in row and row["reloaded_error"] <= 1e-3


def _search_table(results: Results, capture: Results) -> str:
    head: tuple[str, ...] = (
        "Model",
        "Weights",
        "MACs",
        "Sites",
        "s",
        "Peak, MB",
        "Tried",
        "Frontier",
    )
    head += ("Best plan", "SQNR, dB", "Speed, search", "Speed, own", "Reloaded", "Version")
    head += ("Notes",)
    rows = []
    for name, row in _in_order(results):
        reach = capture.get(name, {})
        known = [
            f"{reach[key]:.1%}" if key in reach else "" for key in ("reach_weights", "reach_macs")
        ]
        label = f"{name} (*real*)" if row["real"] else name
        if "failure" in row:
            rows.append(
                (label, *known, *[""] * 10, row.get("version", ""), f"**{row['failure']}**")
            )
            continue
        failed = Counter(reason.splitlines()[0][:120] for reason in row["failed"])
        notes = [f"{count} failed: {reason}" for reason, count in failed.items()]
        rows.append(
            (
                label,
                *known,
                str(row["sites"]),
                f"{row['seconds']:.0f}",
                str(row["peak_mb"]),
                str(row["tried"]),
                str(row["frontier"]),
                " ".join(f"{count} {scheme}" for scheme, count in row["best"].items()),
                f"{row['best_sqnr_db']:.1f}",
                f"{row['searched_speedup']:.2f}",
                f"{row['own_speedup']:.2f}",
                f"{row['reloaded_error']:.0e}" if row["reloaded_error"] else "0",
                row.get("version", ""),
                "; ".join(notes),
            )
        )
    return _table(head, rows)


def _source(row: Mapping[str, Any]) -> str:
    return f"{row['source']}, *real*" if row["real"] else str(row["source"])


def _in_order(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, results[name]) for name in SUBJECTS if name in results]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in lines)
