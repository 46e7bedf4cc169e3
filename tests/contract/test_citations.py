"""Everything that is cited exists: pages of theory, their sections and equations, papers, files."""

import functools
import importlib.util
import os
import re
from pathlib import Path

import pytest

from dmft.display.bibliography import ENTRIES

ROOT = Path(__file__).parents[2]
THEORY = ROOT / "docs" / "theory"
FOLDERS = ("dmft", "docs", "derivations", "examples", "tests")
SUFFIXES = {".py", ".md", ".json", ".js", ".toml"}
# Written when the site is built, from the scripts on the right.
GENERATED = {"gallery": "examples", "derivations": "derivations"}
MODULES = {"rules.md", "laws.md", "literature.md"}  # of the API
WRITTEN = {"_build", "generated", "__pycache__", "mathjax"}

LABEL = re.compile(r"^\(([a-z_]+)-(eq-)?([\w.]+)\)=\n(.*)$", re.M)
HEADING = re.compile(r"^#{2,3} ([A-J](?:\.\d+)?|\d+(?:\.\d+)?)\.? ", re.M)
TAG = re.compile(r"\\tag\{(\w+)\}")
PAGE = re.compile(r"[\w./-]*\w\.md\b")
SCRIPT = re.compile(r"(?<![\w/.-])(?:dmft|derivations|examples|tests)/(?:\w+/)*\w+\.py\b")
KEY = re.compile(r"(?:\[|\{cite\}`)([a-z]+(?:_[a-z]+)*_(?:19|20)\d\d(?:_[a-z]+)*)[]`,]")


@functools.cache
def collected():
    """The reader of citations that the site uses."""
    spec = importlib.util.spec_from_file_location("collected", ROOT / "docs" / "collected.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def places():
    """Sections and "(equations)" that may be cited, of each page of theory."""
    found = {}
    for path in THEORY.glob("*.md"):
        labels = LABEL.findall(path.read_text(encoding="utf-8"))
        found[path.stem] = {f"({place})" if eq else place for _, eq, place, _ in labels}
    return found


def is_page(name, path):
    """Whether a name of a Markdown file means one, from this file, the top or the site."""
    homes = path.parent, ROOT, ROOT / "docs", ROOT / "docs" / "generated" / "api"
    if any(Path(os.path.normpath(home / name)).exists() for home in homes):
        return True
    *_, room, page = ("", "", *Path(name).parts)
    if page == "command_line.md" or ("generated/" in name and page == "index.md"):
        return True
    if page in MODULES:
        return True
    return room in GENERATED and (ROOT / GENERATED[room] / page).with_suffix(".py").exists()


def missing(text, path):
    """What a text cites that does not exist."""
    for *_, page, place in collected().citations(text):
        if page not in places():
            yield f"no page theory/{page}"
        elif place and place not in places()[page]:
            yield f"no section theory/{page} {place}"
    pages = {name for line in text.split("\n") if ".md" in line for name in PAGE.findall(line)}
    yield from (f"no page {name}" for name in sorted(pages) if not is_page(name, path))
    yield from (f"no script {name}" for name in SCRIPT.findall(text) if not (ROOT / name).exists())
    yield from (f"no paper [{key}]" for key in KEY.findall(text) if key not in ENTRIES)


def test_what_is_cited_exists():
    paths = [p for name in FOLDERS for p in sorted((ROOT / name).rglob("*"))]
    wrong = []
    for path in [*paths, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        if path.suffix in SUFFIXES and not WRITTEN & set(path.parts) and path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            wrong += [f"{path.relative_to(ROOT)}: {what}" for what in missing(text, path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted(THEORY.glob("*.md")), ids=lambda p: p.stem)
def test_sections_and_equations_of_theory_have_labels(path):
    text = path.read_text(encoding="utf-8")
    labels = LABEL.findall(text)
    assert all(page == path.stem for page, *_ in labels)
    sections = [place for _, eq, place, _ in labels if not eq]
    headed = [HEADING.match(line)[1] for _, eq, _, line in labels if not eq]
    assert sections == headed == HEADING.findall(text)
    assert [place for _, eq, place, _ in labels if eq] == TAG.findall(text)


@pytest.mark.parametrize(
    "text",
    [
        "theory/one_pass B.2, B.99", "theory/one_pass (1)", "theory/nothing A.1", "one_pass.md B.2",
        "theory/structured_inputs (1)-(30)", "derivations/nothing.py", "[nobody_2020]",
        "theory/one_pass A.0,\n# A.9",
    ],
)  # fmt: skip
def test_missing_sources_are_seen(text):
    assert list(missing(text, ROOT / "dmft" / "names.py"))
