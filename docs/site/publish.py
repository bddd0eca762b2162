"""Adds a built site to the folder of all published versions: ``python docs/site/publish.py build/site PAGES NAME``.

``PAGES/NAME`` is replaced by the site. ``PAGES/versions.json`` lists the versions for the switcher, and
``PAGES/index.html`` leads to the latest release. NAME is a release such as ``2.1.0``, or a branch such as ``main``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

RELEASE = re.compile(r"\d+\.\d+\.\d+")
REDIRECT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>bert-as-service</title>
<meta http-equiv="refresh" content="0; url={0}/">
<a href="{0}/">bert-as-service {0}</a>
</html>
"""


def order(name: str) -> tuple[bool, tuple[int, ...], str]:
    """Returns a sort key: branches first, then releases from the latest to the oldest."""
    numbers = tuple(-int(number) for number in name.split(".")) if RELEASE.fullmatch(name) else ()
    return bool(numbers), numbers, name


def publish(site: Path, pages: Path, name: str) -> None:
    """Copies ``site`` to ``pages/name`` and writes the list of versions."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"the name of a version has letters, digits, '.', '_' and '-' only, not {name!r}")
    if not (site / "index.html").is_file():
        raise FileNotFoundError(f"{site} has no index.html; build the site with `make docs`")
    pages.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(pages / name, ignore_errors=True)
    shutil.copytree(site, pages / name)
    versions = sorted((path.parent.name for path in pages.glob("*/index.html")), key=order)
    releases = [version for version in versions if RELEASE.fullmatch(version)]
    listed = {"versions": versions, "latest": releases[0] if releases else None}
    (pages / "versions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    (pages / "index.html").write_text(REDIRECT.format((releases or versions)[0]), encoding="utf-8")
    (pages / ".nojekyll").touch()  # GitHub would leave out folders such as _static


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", type=Path, help="folder of the built site")
    parser.add_argument("pages", type=Path, help="folder of all published versions; created if it is missing")
    parser.add_argument("name", help="name of this version")
    args = parser.parse_args()
    publish(args.site, args.pages, args.name)


if __name__ == "__main__":
    main()
