"""`python -m autoquant` is the command `autoquant`."""

import sys

from autoquant.cli import main

if __name__ == "__main__":
    sys.exit(main())
