"""Words of a command as they are typed in a shell, whatever is in them."""

from __future__ import annotations

import shlex
from pathlib import Path


def shell_word(word: str | Path) -> str:
    """Return one word as bash reads it back.

    A path that begins with a dash gets `./` before it: a program would take it for an option. What
    a terminal does not show as it is, such as a newline, is written as bash's `$'...'` has it.
    """
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def shell_command(*words: str | Path) -> str:
    """Return a whole command of one program."""
    return " ".join(map(shell_word, words))


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    # One byte that is not UTF-8 stands in a name as a surrogate of this range.
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))
