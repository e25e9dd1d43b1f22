"""The public names stay what they are, whatever is imported behind them."""

from __future__ import annotations

import subprocess
import sys

import autoquant as aq


def test_every_public_name_is_there_before_and_after_all_submodules_are_imported() -> None:
    before = {name: getattr(aq, name) for name in aq.__all__}

    assert {name: getattr(aq, name) for name in aq.__all__} == before
    assert callable(aq.search)


def test_importing_the_package_is_quick_because_it_imports_nothing_heavy() -> None:
    code = "import sys, autoquant; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
