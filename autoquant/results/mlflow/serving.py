"""The process that serves MLflow's UI; ends, with all of its own children, when its parent does.

Run as `python -m autoquant.results.mlflow.serving ARGUMENTS`, as the first of a process group.
The store comes by the environment: command lines are for everybody to read.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    """Wait for the end of standard input, a pipe that closes when the parent ends, however."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv[0] = "mlflow"
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
