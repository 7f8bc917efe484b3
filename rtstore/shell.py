"""Words of a command as they are typed in a shell, whatever is in them."""

from __future__ import annotations

import shlex
from pathlib import Path


def shell_word(word: str | Path) -> str:
    """Return one word as every POSIX shell reads it back.

    A path that begins with a dash gets `./` before it: a program would take it for an option. What
    a terminal does not show as it is, such as a newline, is written as `printf` reads it.
    """
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    start = text.rstrip("\n")  # what a command prints loses the newlines at its end
    end = shlex.quote(text[len(start) :]) if start != text else ""
    form = "".join(map(_escaped, start))
    if form.startswith("-"):  # or else it is an option
        form = f"\\055{form[1:]}"
    return f"\"$(printf '{form}')\"{end}"


def shell_command(*words: str | Path) -> str:
    """Return a whole command of one program. A directory with a path that is not UTF-8, which no
    command of rtstore takes, is entered before one."""
    place = next((word for word in words if isinstance(word, Path) and not is_utf8(word)), None)
    if words[0] != "rtstore" or place is None:
        return " ".join(map(shell_word, words))
    inside = ("." if word == place else shell_word(word) for word in words)
    return f"cd {shell_word(place)} && {' '.join(inside)}"


def rtstore_at(command: str, directory: Path) -> str:
    """Return a command of rtstore for a directory, as it is typed: see `shell_command`."""
    return shell_command("rtstore", *command.split(), directory)


def is_utf8(path: Path) -> bool:
    """Return whether a command of rtstore takes a path: one that JSON and SQLite can represent."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(char: str) -> str:
    """Return a character as it stands in a format of `printf`, in single quotes."""
    if char == "%":
        return "%%"
    if char.isprintable() and char not in "\\'":
        return char
    # One byte that is not UTF-8 stands in a name as a surrogate of this range.
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", errors))
