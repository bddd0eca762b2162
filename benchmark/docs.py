"""Inserts measured results and plots into the pages docs/benchmark-*.md, and draws the chart of the README.

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
FILES = {"five": "result.md", "cost": "result.md", "peers": "peers.md"}
#: Scripts whose printed output is read from a file.
PRINTED = ("quality", "int8_layers", "footprint", "variants", "host_path", "cache", "tokenization")


def insert(name: str, result: str) -> None:
    """Replaces the text between the marks of ``name``, in the page that has them.

    Raises:
        ValueError: no page has such marks.
    """
    marks = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->\n)", re.S)
    for path in DOCS.glob("benchmark-*.md"):
        page = path.read_text("utf-8")
        if marks.search(page):
            path.write_text(
                marks.sub(lambda match: f"{match[1]}\n{result.strip(chr(10))}\n\n{match[2]}", page), "utf-8"
            )
            return
    raise ValueError(f"no page docs/benchmark-*.md has the marks <!-- measured: {name} --> and <!-- end -->; add them")


def with_plots(result: str, name: str, folder: Path) -> str:
    """Copies the plots to ``docs/images`` and returns the result with each plot under its heading."""
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
        parser.add_argument(f"--{name}", type=Path, help=f"file with the output of benchmark/{name}.py")
    args = vars(parser.parse_args())
    for name, file in FILES.items():
        if args[name] is not None:
            result = (args[name] / file).read_text("utf-8")
            result = re.sub(r"\A## .*\n", "", result)
            insert(name, with_plots(result, name, args[name]))
    for name in PRINTED:
        if args[name] is not None:
            insert(name, args[name].read_text("utf-8"))
    picture.draw(picture.PAGE.read_text("utf-8"))


if __name__ == "__main__":
    main()
