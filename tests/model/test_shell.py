"""Words of a command are read back by every shell as what they were."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rtstore.shell import rtstore_at, shell_command, shell_word

WORDS = (
    "plain", "two words", "it's", 'a "quote"', "$HOME", "`id`", "back\\slash", "100%", "%s", "~",
    "new\nline", "at the end\n\n", "\n", "\nfirst", "it's\na \"%s\" \\n $HOME", "tab\there",
    "\x1b[31mred", "caf\udce9", "a\u200bb", "-dash", "-dash\n", "\x011", "na\u00efve \u65e5\n3",
)  # fmt: skip
SHELLS = [pytest.param(name, marks=() if shutil.which(name) else pytest.mark.skip("not here"))
          for name in ("sh", "dash", "bash")]  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("word", WORDS)
def test_a_shell_reads_it_back(shell: str, word: str) -> None:
    """Not only bash: what `sh` is differs, and the commands are for whoever types them."""
    for typed in (word, Path(word)):
        script = os.fsencode(f"printf '%s.' {shell_word(typed)}")
        found = subprocess.run([shell, "-c", script], capture_output=True, check=True).stdout
        dashed = isinstance(typed, Path) and word.startswith("-")
        assert found == os.fsencode(f"./{word}." if dashed else f"{word}.")


@pytest.mark.parametrize("word", WORDS)
def test_what_is_printed_does_nothing_to_a_terminal(word: str) -> None:
    """But for a newline at the end of a name, everything is visible."""
    assert shell_word(word).replace("\n", "").isprintable()


def test_it_stands_in_a_longer_word() -> None:
    """As where a command adds an end of its own to a name."""
    script = f"printf %s. {shell_word(Path('a' + chr(10) + 'b'))}.aside"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "a\nb.aside."
    assert shell_command("mv", Path("-x"), "y z") == "mv ./-x 'y z'"


def test_a_command_of_ours_takes_no_path_that_is_not_utf8() -> None:
    """It is run from inside of the directory. Other programs take any path."""
    there, place = Path("te\udcffam"), "\"$(printf 'te\\377am')\""
    assert rtstore_at("status", Path("team a")) == "rtstore status 'team a'"
    assert rtstore_at("quarantine list", there) == f"cd {place} && rtstore quarantine list ."
    command = shell_command("rtstore", "runs", there, "--number", "9")
    assert command == f"cd {place} && rtstore runs . --number 9"
    assert shell_command("mv", there, "x") == f"mv {place} x"
