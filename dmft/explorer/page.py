"""The page as text: one script from the modules in `front`, one style sheet, KaTeX included.

The modules are joined without a build step: lines that import one of ours are left out, the word
`export` is, and what remains shares one scope.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from dmft.record import plain

FRONT = Path(__file__).with_name("front")
KATEX = FRONT / "katex"
MODULES = ("numbers.js", "plots.js", "texts.js", "explorer.js")
STATIC_MODULES = ("integrator.js", "static.js")
# What the body of a page looks like before the script has run.
HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{head}
<title>{title}</title>
{style}
</head>
<body>
<main id="explorer"><p>Loading…</p><noscript><p>This page needs JavaScript.</p></noscript></main>
{script}
</body>
</html>
"""
# The page fills its window.
BODY = """
body { margin: 0; background: #f4f6f9; min-height: 100vh; }
@media (prefers-color-scheme: dark) { body { background: #12161d; } }
"""


@cache
def script(*modules: str) -> str:
    """Our modules and KaTeX in one scope, as text."""
    # KaTeX finds a CommonJS module here, whatever else the surrounding page defines.
    katex = (KATEX / "katex.min.js").read_text(encoding="utf-8")
    licence = (KATEX / "LICENSE").read_text(encoding="utf-8")
    parts = [] if modules == ("numbers.js",) else [
        f"/*! KaTeX, its style sheet and fonts:\n\n{licence}*/\n"
        "const katex = (() => { const module = { exports: {} }, exports = module.exports;\n"
        f"{katex}\nreturn module.exports; }})();"
    ]  # fmt: skip
    return "\n".join([*parts, *(joined(FRONT / name) for name in modules)])


def joined(path: Path) -> str:
    """A module without its imports of other modules of ours and without `export`."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'^import \{[^}]*\} from "\./[\w.]+";\n', "", text, flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


@cache
def style(inline_fonts: bool) -> str:
    """Style sheet; fonts of KaTeX beside it, or in it."""
    katex = (KATEX / "katex.min.css").read_text(encoding="utf-8")
    if inline_fonts:
        katex = re.sub(r"url\(fonts/([\w-]+\.woff2)\)", _inlined, katex)
    return katex + (FRONT / "style.css").read_text(encoding="utf-8")


def faces() -> str:
    """Rules of the fonts alone: a shadow tree takes them from its document only."""
    return "".join(re.findall(r"@font-face\{[^}]*\}", style(True)))


def _inlined(found: re.Match[str]) -> str:
    data = base64.b64encode((KATEX / "fonts" / found[1]).read_bytes()).decode()
    return f"url(data:font/woff2;base64,{data})"


def fonts() -> dict[str, bytes]:
    """Fonts by name."""
    return {path.name: path.read_bytes() for path in sorted((KATEX / "fonts").glob("*.woff2"))}


def html(title: str, head: str, style_text: str, script_text: str) -> str:
    """The page; the title is escaped."""
    from html import escape

    return HTML.format(title=escape(title), head=head, style=style_text, script=script_text)


def inline(value: Any) -> str:
    """A value as JSON that may stand in a script of a page."""
    return encoded(value).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def in_page(code: str) -> str:
    """JavaScript that may stand in a page, whatever its strings and comments hold.

    A parser of HTML ends a script at ``</script``, and does not see its end after ``<!--`` and
    ``<script``.
    """
    return re.sub(r"<(?=!--|/?script)", r"\\x3c", code, flags=re.IGNORECASE)


def digest(text: str) -> str:
    """Hash of an inline script or style, as a content-security policy names it."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def encoded(value: Any) -> str:
    """JSON of an answer."""
    return json.dumps(plain(value), allow_nan=False)
