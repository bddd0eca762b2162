"""Puts measured results into docs/benchmark.md, each between its marks, the plots beside it, and draws that of the
README anew.

python benchmark/docs.py --five bert-serving-benchmark --cost bert-serving-cost --peers bert-serving-peers
python benchmark/docs.py --quality quality.md --footprint footprint.md --host_path host_path.md
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

import picture

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "benchmark.md"
FILES = {"five": "result.md", "cost": "result.md", "peers": "peers.md"}
#: Scripts that print their result: what they have printed, in a file.
PRINTED = ("quality", "int8_layers", "footprint", "host_path", "tokenization")


def with_result(page: str, name: str, result: str) -> str:
    """The page with what is between the marks of ``name`` replaced.

    Raises:
        ValueError: the page has no such marks.
    """
    marks = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->\n)", re.S)
    if not marks.search(page):
        raise ValueError(f"{PAGE} has no place for {name!r}: <!-- measured: {name} --> and <!-- end -->")
    return marks.sub(lambda match: f"{match[1]}\n{result.strip(chr(10))}\n\n{match[2]}", page)


def with_plots(result: str, name: str, folder: Path) -> str:
    """The result with the plot of each table under its heading; the files are copied into ``docs/images``."""
    images = DOCS / "images"
    images.mkdir(exist_ok=True)

    def under(match: re.Match[str]) -> str:
        plot = folder / f"{match[1].replace(' ', '_')}.png"
        if not plot.is_file():
            return match[0]
        shutil.copy(plot, images / f"{name}_{plot.name}")
        return f"{match[0]}\n![{match[1]}](images/{name}_{plot.name})\n"

    return re.sub(r"^### (.+)\n", under, result, flags=re.M)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, file in FILES.items():
        parser.add_argument(f"--{name}", type=Path, help=f"folder with {file}")
    for name in PRINTED:
        parser.add_argument(f"--{name}", type=Path, help=f"file with what benchmark/{name}.py has printed")
    args = vars(parser.parse_args())
    page = PAGE.read_text("utf-8")
    for name, file in FILES.items():
        if args[name] is not None:
            result = (args[name] / file).read_text("utf-8")
            result = re.sub(r"\A## .*\n", "", result)
            page = with_result(page, name, with_plots(result, name, args[name]))
    for name in PRINTED:
        if args[name] is not None:
            page = with_result(page, name, args[name].read_text("utf-8"))
    PAGE.write_text(page, "utf-8")
    picture.draw(page)


if __name__ == "__main__":
    main()
