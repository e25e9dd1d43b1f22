"""A result folder that was damaged anywhere never loads as something else."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import autoquant as aq
from autoquant.errors import StorageError
from autoquant.results import files
from tests import faulty
from tests.integration.bad_inputs.stage import search

MUTATIONS = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real search, with held-out data and several members."""
    output = tmp_path_factory.mktemp("result") / "out"
    search(output=output, trials=8, heldout=faulty.good_data(seed=4))
    return output


def meaning(folder: Path) -> bytes:
    """All that a loaded result holds, but for the function that loads its model."""
    result = aq.load_result(folder)
    context = result.context
    own = context.__dataclass_fields__.keys() - {"load", "example"}
    fields = [getattr(context, name) for name in sorted(own)]
    example = [tensor.numpy() for tensor in context.example]
    plans = [aq.load_plan(path) for path in sorted(folder.glob("plans/*.json"))]
    return pickle.dumps((result.findings, fields, example, plans))


def read(folder: Path) -> bytes | StorageError:
    """What a folder says, or why it is not read."""
    try:
        return meaning(folder)
    except StorageError as error:
        return error


def flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 4))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def swap_lines(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def drop_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits,
    truncate,
    swap_lines,
    drop_line,
)


def test_no_mutation_of_a_result_loads_as_something_else(folder: Path) -> None:
    draw, whole = random.Random(12), meaning(folder)
    assert meaning(folder) == whole
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != files.LOCK)
    refused, touched = 0, set()
    for _ in range(MUTATIONS):
        path = draw.choice(paths)
        content = path.read_bytes()
        change = draw.choice((*CHANGES, None))
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(content, draw))
        changed = path.read_bytes() if path.exists() else None
        found = read(folder)
        path.write_bytes(content)
        if isinstance(found, StorageError):
            refused += 1
            touched.add(path.name)
            assert path.name in found.message or path.name == files.MANIFEST, found
            assert changed != content
        else:
            assert found == whole, (path, change)
    assert refused > MUTATIONS // 2
    assert {files.HISTORY, files.FRONTIER, files.JOB, files.STATISTICS, files.FACTS} <= touched


def test_what_no_manifest_covers_is_still_read(folder: Path) -> None:
    whole = meaning(folder)
    manifest = folder / files.MANIFEST
    content = manifest.read_bytes()
    manifest.unlink()
    try:
        assert meaning(folder) == whole
    finally:
        manifest.write_bytes(content)


def test_a_frontier_whose_members_the_history_lacks_is_refused(folder: Path) -> None:
    kept = {name: (folder / name).read_bytes() for name in (files.MANIFEST, files.HISTORY)}
    (folder / files.MANIFEST).unlink()
    number = max(item.number for item in aq.load_result(folder).frontier)
    mark = f'"number":{number},'.encode()
    lines = kept[files.HISTORY].splitlines(keepends=True)
    kept_lines = [line for line in lines if mark not in line and b'"told"' not in line]
    (folder / files.HISTORY).write_bytes(b"".join(kept_lines))
    try:
        with pytest.raises(StorageError, match=rf"history\.jsonl lacks its member {number}"):
            aq.load_result(folder)
    finally:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
