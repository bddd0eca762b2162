"""Builds the site from the pages as they are: ``make docs``, then open build/site/index.html.

The source folder is the whole repository, so that links between pages mean the same here and on GitHub. The navigation
is taken from docs/index.md, the landing page. A page that is missing there, or that is there and nowhere else, ends the
build, as every warning does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from bert_serving.server import __version__

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # for entries.py

project = "bert-as-service"
version = release = __version__
copyright = "the contributors of bert-as-service, MIT license"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
extensions += ["entries"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/recipes/*.md"]
include_patterns += ["docs/site/api/*.rst", "example/README.md", "tests/data/golden/README.md"]
exclude_patterns = [".*", "build", "tests/legacy"]

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
html_js_files = [("versions.js", {"defer": "defer"})]
templates_path = ["templates"]
html_additional_pages = {"index": "redirect.html"}
SIDEBAR = ("brand", "search", "versions", "scroll-start", "navigation", "scroll-end")
html_sidebars = {"**": [f"sidebar/{part}.html" for part in SIDEBAR]}  # those of the theme, and the published versions
html_search_scorer = str(Path(__file__).with_name("scorer.js"))
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
API = {"Python API": ["/docs/site/api/client", "/docs/site/api/server"]}
#: Pages with lists of further pages, which are menus of their own.
MENUS = ("docs/recipes/README", "docs/benchmark")


def navigation(page: Path) -> dict[str, list[str]]:
    """Returns the sections of a page with the pages that their lists link to, as entries of a toctree."""
    sections: dict[str, list[str]] = {}
    title = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title = line[3:]
        elif link := re.match(r"- \[(.*?)\]\(([^#]*?)\.md\)", line):
            linked = (page.parent / link[2]).resolve().relative_to(ROOT).as_posix()
            sections.setdefault(title, []).append(f"{link[1]} </{linked}>")
    return sections


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Adds the pages that the lists of the landing page and of the menus link to as hidden toctrees."""
    if docname in (root_doc, *MENUS):
        sections = navigation(ROOT / f"{docname}.md")
        for title, pages in {**sections, **(API if docname == root_doc else {})}.items():
            caption = [f":caption: {title}"] if docname == root_doc else []
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", *caption, "", *pages, "```", ""])


def mark_doors(app: Sphinx, doctree: nodes.document) -> None:
    """Gives the first list of the landing page a class, so that its items are drawn as cards."""
    if app.env.docname == root_doc:
        next(doctree.findall(nodes.bullet_list))["classes"].append("doors")


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
    app.connect("doctree-read", mark_doors)
