"""What libraries say that is no business of the user's; what they raise is said in any case."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_warnings() -> Iterator[None]:
    """Hide warnings, such as torch's about its own deprecated quantization API."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings and log messages."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with no_warnings():
            yield
    finally:
        logging.disable(before)
