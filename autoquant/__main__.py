"""`python -m autoquant` is the command `autoquant`."""

from autoquant.cli import run

if __name__ == "__main__":
    run()
