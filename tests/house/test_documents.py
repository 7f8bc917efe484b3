"""The map and the page for contributors name modules, folders and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import CHECKOUT

DOCUMENTS = ("rtstore/ARCHITECTURE.md", ".github/CONTRIBUTING.md")
_PATHS = re.compile(r"`((?:rtstore|tests|migrations)(?:/[\w.]+)*)`")
_MODULES = re.compile(r"python -m (tests(?:\.\w+)+)")
_PARTS = re.compile(r"trigger(?:s)? `(\w+)`(?:, `(\w+)`)?")


def _text(name: str) -> str:
    path = CHECKOUT / name
    if not path.exists():  # the packed sources have no dotfiles
        pytest.skip(f"no {name} here")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_and_modules_exist(name: str) -> None:
    """Every path in code style is there, and so is every module that is run."""
    text = _text(name)
    paths = set(_PATHS.findall(text))
    assert paths
    assert [path for path in sorted(paths) if not (CHECKOUT / path).exists()] == []
    modules = [module.replace(".", "/") for module in _MODULES.findall(text)]
    assert [
        module
        for module in modules
        if not ((CHECKOUT / module).is_dir() or Path(f"{CHECKOUT / module}.py").is_file())
    ] == []


def test_triggers_of_the_map_exist() -> None:
    """An invariant that a trigger holds names one that the revisions make."""
    revisions = "".join(
        path.read_text(encoding="utf-8")
        for path in (CHECKOUT / "migrations" / "versions").glob("*.py")
    )
    named = {name for pair in _PARTS.findall(_text(DOCUMENTS[0])) for name in pair if name}
    assert len(named) >= 3
    assert [name for name in sorted(named) if f"TRIGGER {name} " not in revisions] == []


def test_every_layer_is_on_the_map() -> None:
    """Each folder of the package has a line in the table of layers."""
    text = _text(DOCUMENTS[0])
    folders = [
        path for path in (CHECKOUT / "rtstore").iterdir() if (path / "__init__.py").is_file()
    ]
    assert folders
    assert [path.name for path in folders if f"`rtstore/{path.name}`" not in text] == []
