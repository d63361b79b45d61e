"""The site: ``make docs`` builds it from these pages, with Sphinx, MyST and furo."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # an import of DeepSpeed looks for devices

ROOT = Path(__file__).resolve().parents[1]

project = "pipecodec"
author = "the pipecodec authors"
release = version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[
    0
]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# Headings have the anchors that code hosts give them: a link works there and here.
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
nitpick_ignore_regex = [
    # The site builds without a network, so without the pages of other projects.
    (r"py:class", r"(torch|nn|os|pathlib|collections|typing|deepspeed|transformers)\..*"),
    (r"py:class", r"(Any|Tensor|Path|Callable|Mapping|Sequence|Iterable|Collection|Literal)\b.*"),
    # Types of arguments and results that are not public.
    (r"py:class", r"(pipecodec\.)?(\w+\.)*(_T|Arg|Cut|Differentiable|Loss|ModelState|Outputs)"),
    (r"py:class", r"(pipecodec\.)?(\w+\.)*(PipelineStage|RankLogger|Stats)"),
]

html_theme = "furo"
html_title = f"pipecodec {release}"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_dark_style = "github-dark"

NO_SECTIONS = ("attribute", "data", "property")
OTHER_PAGE = re.compile(r"\[([^\]`]+)\]\((\.\./[\w./-]+\.md)(?:#[\w-]*)?\)")


def setup(app: Sphinx) -> None:
    """Read docstrings, and links to pages that are not of the site."""
    app.connect("autodoc-process-docstring", google_docstring)
    app.connect("source-read", link_files)


def google_docstring(
    app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Read the sections of a docstring (Args, Raises); an attribute's is a plain sentence."""
    if kind not in NO_SECTIONS:
        lines[:] = GoogleDocstring(lines, Config(napoleon_use_rtype=False)).lines()


def link_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Offer pages outside of this folder, such as CONTRIBUTING.md, as the files that they are."""
    folder = (Path(app.srcdir) / page).parent

    def link(found: re.Match[str]) -> str:
        if (folder / found[2]).resolve().is_relative_to(app.srcdir):
            return found[0]
        return f"{{download}}`{found[1]} <{found[2]}>`"

    source[0] = OTHER_PAGE.sub(link, source[0])
