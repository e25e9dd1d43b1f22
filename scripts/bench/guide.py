"""Follow a job from `check` to `finetune`, each command the `next:` of the one before.

    python scripts/bench/guide.py experiments/resnet20_npu_guide.yaml \
        --set model.arguments.folder=FOLDER --set data.arguments.folder=FOLDER

prints how long each command took, by the clock and on the CPU, and writes what it printed to
FOLDER/N-COMMAND.txt of the folder that `--output` names (default: `guide` below the working
folder). Ends with the command after which there is no next one, or when finetune is done.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

MOST_STEPS = 12


def main() -> int:
    """Run the path; gives the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("--output", type=Path, default=Path("guide"))
    options, overrides = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    words = ["check", str(options.job), *overrides]
    begun = time.monotonic()
    for number in range(1, MOST_STEPS + 1):
        start, used, name = time.monotonic(), _cpu_s(), words[0]
        ran = subprocess.run(
            [sys.executable, "-m", "autoquant", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        (options.output / f"{number}-{name}.txt").write_text(ran.stdout, encoding="utf-8")
        took = f"{time.monotonic() - start:6.0f} s {_cpu_s() - used:6.0f} CPU s"
        print(f"{took}  exit code {ran.returncode}  {shlex.join(words)}", flush=True)
        if ran.returncode > 1:  # 1: check found something
            return ran.returncode
        words = next_words(ran.stdout)
        if not words:
            break
    print(f"{time.monotonic() - begun:6.0f} s {_cpu_s():6.0f} CPU s  together")
    return 0


def _cpu_s() -> float:
    """What the commands took so far, on all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def next_words(printed: str) -> list[str]:
    """The command that was printed last, without `autoquant`; none where the path ends."""
    lines = [line for line in printed.splitlines() if line.startswith("next: autoquant ")]
    words = shlex.split(lines[-1].removeprefix("next: autoquant ")) if lines else ["export"]
    return [] if words[0] == "export" else words


if __name__ == "__main__":
    sys.exit(main())
