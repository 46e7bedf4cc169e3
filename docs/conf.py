"""Sphinx: pages, guide and papers are written here; derivations, gallery and API are read.

    sphinx-build -W docs docs/_build/html                  what takes minutes is not run again
    DMFT_DOCS=all sphinx-build -W docs docs/_build/html    every derivation and example is run
    DMFT_DOCS=quick sphinx-build -W docs docs/_build/html  nothing runs that tests run: pages alone

Everything a page needs stands beside it: no address outside is asked for.
"""

import itertools
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import collected  # noqa: E402
from docutils import nodes  # noqa: E402

from dmft.display.bibliography import ENTRIES  # noqa: E402
from dmft.names import VERSION  # noqa: E402

project = "dmft"
author = "The dmft developers"
release = version = VERSION
extent = os.environ.get("DMFT_DOCS", "")
collected.write(HERE / "generated", extent)

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
# The first is what autosummary writes.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".py": "myst-nb"}
# The files of Sphinx itself are Python too.
exclude_patterns = [
    "_build",
    "**/.ipynb_checkpoints",
    "conf.py",
    "collected.py",
    "explorer_pages.py",
    "generated/explorer",
]
default_role = "code"

# Pages that run. A page is run again when its cells change (docs/_build/.jupyter_cache).
nb_custom_formats = {".py": ["collected.notebook", {}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
# Notices of compilation; what a page warns of it prints.
nb_output_stderr = "remove"
# No bars in pages, and no widgets, whose scripts would come from outside.
os.environ["TQDM_DISABLE"] = "1"
nb_ipywidgets_js = {}
nb_execution_excludepatterns = {"all": [], "quick": ["generated/derivations/*.py"]}.get(
    extent, collected.LONG_DERIVATIONS
)
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

# One file without fonts to fetch; menu and speech would load more.
mathjax_path = "mathjax/tex-svg-full.js"
mathjax3_config = {
    "options": {
        "enableMenu": False,
        "ignoreHtmlClass": "document",
        # Pages of records (`_repr_html_`) hold formulas between dollars.
        "processHtmlClass": "math|output_area|text_html",
    },
    "tex": {"inlineMath": [["$", "$"], ["\\(", "\\)"]]},
    "svg": {"fontCache": "global"},
}
myst_update_mathjax = False

bibtex_bibfiles = ["generated/references.bib"]
bibtex_default_style = "plain"

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_extra_path = ["generated/explorer"]
html_css_files = ["page.css"]
html_title = f"dmft {VERSION}"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "logo": {"text": "dmft"},
}
html_sidebars = {"index": [], "tutorial": [], "**": ["sidebar-nav-bs"]}
copyright = "the dmft developers, BSD-3-Clause"

COLUMN = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?) {2,}(\S.*)")
CITED = re.compile(r"\[(" + "|".join(ENTRIES) + r")(?:, [^]]*)?\]")


def escaped(text):
    """Plain text as reStructuredText."""
    text = text.replace("\\", "\\\\").replace("*", r"\*").replace("|", r"\|")
    return re.sub(r"(?<=\w)_(?=[^\w`]|$)", r"\\_", text)


def plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text: stars of teachers are no emphasis, [keys] are citations.

    Equation, Shapes, Scaling, Source ... stand in two columns there; here they are definitions.
    """
    code, rows, inside = False, [], False
    for line in lines:
        bare = line.strip()
        code = bare.startswith((">>>", "...")) or (code and bool(bare))
        if code:
            rows.append(line)
            continue
        line = "`".join(
            part if inside_code else escaped(part)
            for part, inside_code in zip(
                line.split("`"), itertools.cycle((False, True)), strict=False
            )
        )
        line = CITED.sub(lambda m: f":cite:`{m.group(1)}`", line)
        entry = COLUMN.match(line)
        if entry:
            rows += [*([] if inside else [""]), entry[1], f"    {entry[2]}"]
            inside = True
        elif inside and line.startswith("      "):
            rows.append(f"    {line.strip()}")
        else:
            if inside and bare:
                rows.append("")
            inside = False
            rows.append(line)
    lines[:] = rows


def unwrapped(app, doctree, name):
    """Sphinx would put an align or a tag into a split, which TeX refuses."""
    for node in doctree.findall(nodes.math_block):
        text = node.astext()
        if r"\tag{" in text:
            node[:] = [nodes.Text(rf"\[{text}\]")]
        if r"\tag{" in text or r"\begin{align" in text:
            node["no-wrap"] = node["nowrap"] = True


def linked(app, doctree, name):
    """Citations of theory pages, in docstrings too, become links to their section."""
    written = nodes.FixedTextElement, nodes.literal, nodes.reference, nodes.math
    for parent in list(doctree.findall(nodes.TextElement)):
        if isinstance(parent, written):
            continue
        children = []
        # Markdown has a node for each line, and a citation may go on in the next.
        for plain, run in itertools.groupby(parent.children, lambda n: type(n) is nodes.Text):
            found = list(run)
            children += with_links(app, name, "".join(found)) if plain else found
        parent.children = []
        parent.extend(children)


def with_links(app, name, text):
    """Text and references of a text with citations."""
    end = 0
    for start, stop, page, place in collected.citations(text):
        label = collected.anchor(page, place)
        address = app.builder.get_relative_uri(name, f"theory/{page}")
        yield nodes.Text(text[end:start])
        to = f"{address}#{label}" if label else address
        yield nodes.reference("", text[start:stop], refuri=to)
        end = stop
    yield nodes.Text(text[end:])


def not_ours(app, what, name, obj, skip, options):
    """Functions of others that are values of fields stand under Attributes already."""
    if callable(obj) and not str(getattr(obj, "__module__", "dmft")).startswith("dmft"):
        return True
    return None


def setup(app):
    """Before numpydoc, which reads the sections."""
    app.connect("autodoc-process-docstring", plain_text, priority=100)
    app.connect("autodoc-skip-member", not_ours)
    app.connect("doctree-resolved", unwrapped)
    app.connect("doctree-resolved", linked)
