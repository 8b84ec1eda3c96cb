"""How the documentation is built: `make docs` turns this folder into runs/docs, or fails on the first warning."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

import amodal

sys.path.insert(0, str(Path(__file__).parent))
from generate import write_generated_pages

project = "amodal"
author = "The amodal developers"
release = version = amodal.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["examples", "tutorials", "generated/encoders.md"]
suppress_warnings = ["misc.highlighting_failure", "ref.python"]  # CSV has no lexer; several classes are called Table

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
bibtex_reference_style = "author_year"

default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "amodal"
html_static_path = ["static"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
linkcheck_ignore = [r"^(?!https?:)"]


def write_api_pages(app: Sphinx) -> None:
    """One page a package, from the files that are there, so that no module is forgotten."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    package = Path(amodal.__file__).parent
    alone = sorted(path.stem for path in package.glob("*.py") if not path.stem.startswith("_"))
    pages = {"amodal": [f"amodal.{name}" for name in alone if name != "cli"]}
    for part in sorted(path.parent for path in package.rglob("*/__init__.py") if path.parent != package):
        name = ".".join(part.relative_to(package).parts)
        modules = sorted(path.stem for path in part.glob("*.py") if not path.stem.startswith("_"))
        pages[name] = [f"amodal.{name}", *(f"amodal.{name}.{module}" for module in modules)]
    for name, modules in pages.items():
        title = "amodal" if name == "amodal" else f"amodal.{name}"
        lines = [f"# {title}", ""]
        for module in modules:
            lines += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "```", ""]
        page, text = folder / f"{name}.md", "\n".join(lines)
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def skip_routing(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leaves out the methods that scikit-learn gives every estimator for metadata routing."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_routing)
    app.connect("builder-inited", write_api_pages)
    app.connect("builder-inited", lambda app: write_generated_pages())
    app.add_css_file("site.css")
