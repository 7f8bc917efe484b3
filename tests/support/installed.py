"""The wheel of this checkout, installed where nobody knows the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


class Installed:
    """An environment with the wheel, and a folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.wheel = wheel
        self.folder = folder / "work"
        self.folder.mkdir()
        builder = venv.EnvBuilder(with_pip=False, symlinks=os.name == "posix")
        builder.create(folder / "venv")
        names = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        self.bin = Path(sysconfig.get_path("scripts", "venv", vars=names))
        self.site = Path(sysconfig.get_path("purelib", "venv", vars=names))
        self.python = self.bin / Path(sys.executable).name
        install = ["--python", str(self.python), "install", "--quiet", "--no-deps", "--no-index"]
        self.run(sys.executable, "-m", "pip", *install, str(wheel))
        # Nested .pth files are not followed, so an editable install of ours does not come along.
        borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (self.site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")

    def run(
        self, *command: str | Path, expected: int = 0, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder, as on a machine that never saw the checkout."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "MYPY", "VIRTUAL_ENV", "COV_", "COLUMNS"))
        }
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == expected, f"{command}\n{done.stdout}\n{done.stderr}"
        return done


def install_wheel(folder: Path) -> Installed:
    """Build the wheel with what is installed here, and install it in an environment of its own."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, CHECKOUT],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    return Installed(folder, wheel)
