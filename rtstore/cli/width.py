"""How wide the reader of a stream is. Loads nothing else, so that a help is there at once."""

from __future__ import annotations

import os
from typing import IO

_USUAL_WIDTH = 80
"""Of a terminal that does not say its width."""


def reader_width(stream: IO[str]) -> int | None:
    """Return how wide the reader of a stream is: `COLUMNS`, or its terminal; None: not known."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns[:6]) > 0:
        return int(columns[:6])
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except OSError:
        return _USUAL_WIDTH
