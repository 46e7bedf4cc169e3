"""Check a built site: links and anchors of every page; errors of pages in a browser.

    python tests/site/check.py docs/_build/html              every page in the browser, two widths
    python tests/site/check.py docs/_build/html --sample 6   six pages; all links all the same
    python tests/site/check.py docs/_build/html --pictures FOLDER   keeps how each page looks

Needs chromium and playwright for the second part and says so where they are missing
(`--browser required` fails then). Ends with the number of problems.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WIDTHS = (1280, 400)
# Milliseconds of a busy machine, and pixels of a page that a picture shows.
PATIENCE, HIGHEST = 180_000, 3000


# The promise of MathJax at startup is fulfilled before its formulas are there.
TYPESET = "[...document.querySelectorAll('.math')].every(e => e.querySelector('mjx-container'))"

# Elements without an end, those whose text is shown as it is written, and classes of formulas.
ALONE = {"br", "img", "meta", "link", "input", "hr", "source", "wbr"}
WRITTEN = {"script", "style", "code", "pre", "textarea", "title"}
FORMULAS = {"math", "output_area", "text_html"}
# Text that looks like TeX after MathJax has run; sources and formulas are not looked at.
LEFT = r"""() => {
    const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
    while (text.nextNode()) {
        const kept = "script, style, code, pre, textarea, svg, iframe, mjx-container";
        const where = text.currentNode.parentElement.closest(kept);
        if (/\\[a-zA-Z]{2}/.test(text.currentNode.data) && !where)
            found.push(text.currentNode.data.trim().slice(0, 60));
    }
    return found;
}"""
# Names of tables on two lines, and punctuation that begins a line after a formula.
SPLIT = r"""() => {
    const names = [...document.querySelectorAll("table.autosummary td:first-child code span.pre")]
        .filter(e => e.getClientRects().length > 1).map(e => e.textContent);
    const marks = [...document.querySelectorAll("span.math")].filter(e => {
        const text = e.nextSibling, range = document.createRange();
        if (text?.nodeType !== Node.TEXT_NODE || !/^[.,;:)]/.test(text.data)) return false;
        range.setStart(text, 0);
        range.setEnd(text, 1);
        const mark = range.getBoundingClientRect(), box = e.getBoundingClientRect();
        return mark.width > 0 && mark.top >= box.bottom - 1;
    }).map(e => e.nextSibling.data.slice(0, 20));
    return [...names, ...marks];
}"""
# What a reader sees where Markdown did not take a formula for one.
TEX = re.compile(r"\$|\\[a-zA-Z]{2}")


class Page(HTMLParser):
    """Links, sources, anchors and formulas that stayed text, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.raw: list[str] = []
        self.inside: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in ALONE:
            classes = set((found.get("class") or "").split())
            self.inside.append((tag, tag in WRITTEN or bool(classes & FORMULAS)))
        for name in ("id", "name"):
            if found.get(name):
                self.anchors.add(str(found[name]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        source = found.get("src") or (found.get("href") if tag == "link" else None)
        if source and not (tag == "link" and found.get("rel") in ("canonical", "index", "search")):
            self.loaded.append(str(source))

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if TEX.search(data) and not any(kept for _, kept in self.inside):
            self.raw.append(data.strip())


def pages_of(folder: Path) -> list[Path]:
    """Pages of a site; what themes keep in `_static` are templates."""
    return sorted(p for p in folder.rglob("*.html") if "_static" not in p.relative_to(folder).parts)


def broken(folder: Path) -> list[str]:
    """Links to files or anchors that are not there, formulas left as text, loads from outside."""
    pages = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in pages_of(folder)}
    problems = []
    for path, page in pages.items():
        if page.raw and not path.name.startswith("explore_"):
            problems.append(f"{path.name}: formula as text: {page.raw[0][:60]!r}")
        for link in {*page.links, *page.loaded}:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https") or link.startswith("//"):
                if link in page.loaded:
                    problems.append(f"{path.name}: loads {link}")
                continue
            if parts.scheme:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.exists():
                problems.append(f"{path.relative_to(folder.resolve())}: no file {link}")
            elif parts.fragment and target in pages:
                anchors = pages[target].anchors
                if unquote(parts.fragment) not in anchors and parts.fragment not in anchors:
                    problems.append(f"{path.relative_to(folder.resolve())}: no anchor {link}")
    return problems


def in_browser(paths: Iterable[Path], chromium: str, pictures: Path | None = None) -> list[str]:
    """Errors of TeX and of the console, requests outside, pages wider than the window.

    Each page is loaded at the first width and then narrowed; `pictures` keeps how it looks.
    """
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context()
        for path in paths:
            seen: list[str] = []
            tab = context.new_page()
            # The theme says so on its first visit; it is a notice of its own.
            tab.on(
                "console",
                lambda m, seen=seen: (
                    seen.append(m.text)
                    if m.type == "error" and "theme mode" not in m.text
                    else None
                ),
            )
            tab.on(
                "request",
                lambda r, seen=seen: (
                    seen.append(f"asks for {r.url}")
                    if urlsplit(r.url).scheme in ("http", "https", "ws", "wss")
                    else None
                ),
            )
            tab.on("pageerror", lambda e, seen=seen: seen.append(str(e)))
            tab.set_viewport_size({"width": WIDTHS[0], "height": 900})
            tab.set_default_timeout(PATIENCE)
            tab.goto(path.resolve().as_uri())
            tab.wait_for_function(TYPESET)
            merrors = tab.evaluate(
                "document.querySelectorAll('[data-mml-node=merror], mjx-merror').length"
            )
            if merrors:
                seen.append(f"{merrors} errors of TeX")
            if not path.name.startswith("explore_"):
                seen += [f"TeX as text: {text!r}" for text in tab.evaluate(LEFT)]
            for width in WIDTHS:
                tab.set_viewport_size({"width": width, "height": 900})
                wide = tab.evaluate("document.documentElement.scrollWidth")
                if wide > width + 2:
                    seen.append(f"is {wide} wide at {width}")
                seen += [f"{text!r} is broken at {width}" for text in tab.evaluate(SPLIT)]
                if pictures is not None:
                    name = "__".join(path.parts[-3:]).removesuffix(".html")
                    high = tab.evaluate("document.documentElement.scrollHeight")
                    tab.set_viewport_size({"width": width, "height": min(high, HIGHEST)})
                    tab.screenshot(path=pictures / f"{name}_{width}.png")
            problems += [f"{path.name}: {what}" for what in seen]
            tab.close()
        browser.close()
    return problems


def finds(folder: Path, word: str, chromium: str) -> bool:
    """Whether the search of the site finds a word."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto((folder / "search.html").resolve().as_uri() + f"?q={word}")
        try:
            tab.wait_for_selector("#search-results li a", timeout=PATIENCE)
            return True
        except Exception:
            return False
        finally:
            browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--browser", choices=("if there", "required"), default="if there")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each page and width")
    given = parser.parse_args()
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    pages = pages_of(given.folder)
    problems = broken(given.folder)
    print(
        f"{len(pages)} pages; links, anchors, sources, formulas as text: {len(problems)} problems"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        import playwright  # noqa: F401
    except ImportError:
        chromium = None
    if chromium is None:
        print("chromium or playwright is not installed: no page was opened")
        if given.browser == "required":
            problems.append("no browser")
    else:
        step = max(1, len(pages) // given.sample) if given.sample else 1
        chosen = pages[::step]
        found = in_browser(chosen, chromium, given.pictures)
        if not finds(given.folder, "plateau", chromium):
            found.append("the search does not find 'plateau'")
        print(f"{len(chosen)} pages opened at {len(WIDTHS)} widths: {len(found)} problems")
        problems += found
    for problem in problems:
        print("  " + problem)
    return min(len(problems), 1)


if __name__ == "__main__":
    sys.exit(main())
