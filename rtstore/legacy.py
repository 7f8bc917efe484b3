"""Reads the file-only ancestor's directories."""

from pathlib import Path


def is_legacy_directory(directory: Path) -> bool:
    """Whether the directory holds the ancestor's manifest."""
    return any(
        (directory / name).is_file() for name in ("manifest.json", "opencode-runtime-manifest.json")
    )
