"""Installs the unmodified client of version 1.10.0 into ``py3/``, and into ``py2/`` if Python 2.7 is available."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENT = "bert-serving-client==1.10.0"
#: The last releases for Python 2.7, as wheels for Linux on x86-64.
PY2_PACKAGES = ("pyzmq==19.0.2", "numpy==1.16.6")
PY2_PLATFORM = ["--python-version", "27", "--implementation", "cp", "--platform", "manylinux1_x86_64",
                "--platform", "manylinux2010_x86_64", "--abi", "cp27mu"]  # fmt: skip


def download(folder: Path, *packages: str, platform: Sequence[str] = ()) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    subprocess.run([*command, *platform, *packages], check=True)


def unpack(wheels: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


def find_python2() -> str | None:
    """Returns an interpreter of version 2.7 with wide characters, which those wheels need."""
    candidates = [shutil.which("python2.7"), *map(str, Path.home().glob(".pyenv/versions/2.7*/bin/python"))]
    for candidate in candidates:
        if candidate:
            probe = "import sys; sys.exit(sys.version_info[:2] != (2, 7) or sys.maxunicode < 0x10FFFF)"
            if subprocess.run([candidate, "-c", probe], capture_output=True).returncode == 0:
                return candidate
    return None


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder)
        download(wheels, CLIENT)
        unpack(wheels, HERE / "py3")
        python2 = find_python2()
        if python2 is None:
            print("Python 2.7 not found: the 1.10.0 client is tested on Python 3 only")
            return
        download(wheels, *PY2_PACKAGES, platform=PY2_PLATFORM)
        unpack(wheels, HERE / "py2")
        (HERE / "py2" / "PYTHON").write_text(python2)


if __name__ == "__main__":
    main()
