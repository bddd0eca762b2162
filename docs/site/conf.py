"""Builds the site from the pages as they are: ``make docs``, then open build/site/index.html.

The source folder is the whole repository, so that links between pages mean the same here and on GitHub. The navigation
is taken from docs/index.md. A page that is missing there, or that is there and nowhere else, ends the build, as every
warning does.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from bert_serving.server import __version__

ROOT = Path(__file__).resolve().parents[2]

project = "bert-as-service"
version = release = __version__
copyright = "the contributors of bert-as-service, MIT license"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/site/api/*.rst"]
include_patterns += ["example/README.md", "tests/data/golden/README.md"]
exclude_patterns = ["docs/index.md", ".*", "build", "tests/legacy"]

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "py:obj"

html_theme = "furo"
html_title = f"bert-as-service {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "redirect.html"}
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#1d4ed8", "color-brand-content": "#1d4ed8"},
    "dark_css_variables": {"color-brand-primary": "#7aa2f7", "color-brand-content": "#7aa2f7"},
}
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp, .go"

#: Pages that are made for the site alone.
API = {"API": ["docs/site/api/client", "docs/site/api/server"]}


def navigation() -> dict[str, list[str]]:
    """Returns the sections of docs/index.md, with the pages that each links to."""
    sections: dict[str, list[str]] = {}
    title = ""
    for line in (ROOT / "docs" / "index.md").read_text(encoding="utf-8").splitlines():
        if line.endswith(":") and not line.startswith("-"):
            title = line[:-1]
        elif link := re.match(r"- \[.*?\]\((.*?)\.md\)", line):
            page = (ROOT / "docs" / link[1]).resolve().relative_to(ROOT).as_posix()
            sections.setdefault(title, []).append(page)
    return sections


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == root_doc:
        for title, pages in {**navigation(), **API}.items():
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])


def unlink_missing_pages(app: Sphinx, doctree: nodes.document) -> None:
    """Turns links to folders and to pages that are not part of the site into plain text."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node.get("reftype") != "myst":
            continue
        if node["refdomain"] == "doc":
            is_here = node["reftarget"] in app.env.found_docs or not (ROOT / f"{node['reftarget']}.md").is_file()
        else:
            is_here = not (Path(app.env.doc2path(node["refdoc"])).parent / node["reftarget"]).is_dir()
        if not is_here:
            node.replace_self(node.children)


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", unlink_missing_pages)
