"""Pages that are read from elsewhere: derivations, gallery, API, bibliography.

Written into `docs/generated` by `conf.py` before Sphinx looks for its sources. A file is only
written where its text changes, so that a second build reads what changed.
"""

import ast
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dmft
from dmft.display.bibliography import ENTRIES
from dmft.names import VERSION

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "_static" / "gallery"
# What an example wrote and printed, by the digest of its text and of the package.
KEPT = ROOT / "docs" / "_build" / "examples"
# Shown without output unless DMFT_DOCS=all: each takes longer than ten seconds.
LONG_DERIVATIONS = [
    f"generated/derivations/{name}.py"
    for name in (
        "certificates", "escape_formulas", "exponents", "infinite_width", "large_batches",
        "large_sweeps", "phase_retrieval", "public_script",
    )
]  # fmt: skip
LONG_EXAMPLES = {
    "any_activation", "batch_sizes", "correlation_loss", "dmft_learnability", "escape_contours",
    "escape_formulas", "exclusive_or", "exit_times", "learning_rules", "maximal_rates", "p_spin",
    "real_data", "regions_traced", "repetition", "scaling_regimes", "sequence_length", "staircase",
    "theory_and_simulation", "three_tokens", "wide_network",
}  # fmt: skip
# A formula between double dollars, and the mark behind it: within a paragraph Markdown would read
# them as text, and a line of them that begins with a sign as an item of a list.
DISPLAY = re.compile(r"[ \t]*\n?[ \t]*\$\$[ \t]*\n?(.+?)\n?[ \t]*\$\$([.,;:]?)[ \t]*", re.DOTALL)

# "theory/one_pass B.2, F.1" cites sections of docs/theory/one_pass.md, "(6)" an equation.
PLACE = r"(?:\([A-D]?\d+[a-z]?\)|(?:[A-J](?:\.\d+)?|\d+(?:\.\d+)?)(?![\w\[(]))"
CITATION = re.compile(
    rf"\btheory/([a-z_]+)\b(?:[\s#]+({PLACE}(?:(?:,[\s#]+|-| to | and ){PLACE})*))?"
)


def citations(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Start, end, page and section or "(equation)" of each citation; "" cites a whole page."""
    for found in CITATION.finditer(text):
        places = list(re.finditer(PLACE, found[2] or ""))
        if not places:
            yield found.start(), found.end(), found[1], ""
        for number, place in enumerate(places):
            start = found.start(2) + place.start() if number else found.start()
            yield start, found.start(2) + place.end(), found[1], place[0]


def anchor(page: str, place: str) -> str:
    """Label of a section "B.2" or an equation "(6)", as Sphinx writes it in addresses.

    In a page it is `(one_pass-B.2)=` or `(one_pass-eq-6)=`.
    """
    label = f"{page}-eq-{place[1:-1]}" if place.startswith("(") else f"{page}-{place}"
    return re.sub("[^a-z0-9]+", "-", label.lower()) if place else ""


def write(folder: Path, extent: str) -> None:
    """All generated pages; "all" runs the long examples too, "quick" none."""
    put(folder / "references.bib", "\n\n".join(ENTRIES.values()) + "\n")
    derivations(folder / "derivations")
    explorers(folder / "explorer")
    gallery(folder / "gallery", extent)
    api(folder / "api")


def explorers(folder: Path) -> None:
    """Three explorers without a server, written again where the package changed."""
    mark = folder.parent / "explorer.txt"
    digest = package_digest().hex()
    if not mark.exists() or mark.read_text(encoding="utf-8") != digest:
        import explorer_pages

        explorer_pages.main(folder)
        put(mark, digest)


def put(path: Path, text: str) -> None:
    """Write a file whose text changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def derivations(folder: Path) -> None:
    """Scripts as pages, and their list."""
    sources = sorted(ROOT.glob("derivations/*.py"))
    for source in sources:
        put(folder / source.name, source.read_text(encoding="utf-8"))
    listed = "\n".join(source.stem for source in sources)
    put(
        folder / "index.md",
        "# Derivations\n\nTexts that run, from the definition to the boxed formula. Each checks "
        "itself by numbers; download one as a notebook, or run it as a script: "
        "`python derivations/committee_sgd.py FOLDER` leaves its LaTeX in the folder.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n",
    )


def notebook(text: str) -> object:
    """A percent script as a notebook that names its language."""
    import jupytext

    found = jupytext.reads(text, "py:percent")
    for cell in found.cells:
        if cell.cell_type == "markdown":
            cell.source = DISPLAY.sub(r"\n\n$$\n\1\2\n$$\n\n", cell.source)
    found.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    found.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return found


def gallery(folder: Path, extent: str) -> None:
    """A page for each example, and all pictures on one."""
    scripts = sorted(ROOT.glob("examples/*.py"))
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda s: output(s, extent), scripts))
    cards = []
    for script, printed in zip(scripts, outputs, strict=True):
        name, text = script.stem, script.read_text(encoding="utf-8")
        title, *rest = (ast.get_docstring(ast.parse(text)) or name).split("\n", 1)
        picture = PICTURES / f"{name}.png"
        image = f"![{title}](/_static/gallery/{name}.png)\n\n" if picture.exists() else ""
        said = f"It prints\n\n```text\n{printed.strip()}\n```\n" if printed else ""
        put(
            folder / f"{name}.md",
            f"# {title.rstrip('.')}\n\n{plain(' '.join(rest))}\n\n{image}"
            f"```python\n{text}```\n\n{said}",
        )
        shown = f'<img src="../../_static/gallery/{name}.png" alt="">' if image else ""
        words = title.replace("`", "")
        cards.append(f'<a href="{name}.html">{shown}<p>{words}</p></a>')
    hidden = "\n".join(script.stem for script in scripts)
    put(
        folder / "index.md",
        "# Gallery\n\nShort scripts of `examples/`, each with the number that a test checks.\n\n"
        '```{raw} html\n<div class="gallery">\n' + "\n".join(cards) + "\n</div>\n```\n\n"
        f"```{{toctree}}\n:hidden:\n\n{hidden}\n```\n",
    )


def plain(text: str) -> str:
    """Docstrings as Markdown: stars are stars."""
    return text.strip().replace("*", r"\*")


def output(script: Path, extent: str) -> str:
    """What a script prints; with "all" its figure goes to `PICTURES`. "" where it was not run."""
    digest = hashlib.sha256(script.read_bytes() + package_digest()).hexdigest()[:24]
    kept = KEPT / f"{script.stem}-{digest}.txt"
    if not kept.exists():
        left_out = extent == "quick" or (extent != "all" and script.stem in LONG_EXAMPLES)
        if left_out or missing(script):
            return ""
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            figure = Path(scratch) / f"{script.stem}.png"
            if "Path(sys.argv[1]" in script.read_text(encoding="utf-8"):
                figure.mkdir()  # takes a folder
            done = subprocess.run(
                [sys.executable, str(script), str(figure)],
                cwd=scratch, env={**os.environ, "MPLBACKEND": "Agg"},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{script.name} failed:\n{done.stderr[-2000:]}")
            if extent == "all":
                keep_picture(figure, script.stem)
        kept.write_text(done.stdout, encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def keep_picture(figure: Path, name: str) -> None:
    """A thumbnail that is there stays: two runs of Matplotlib differ by bytes, not by content."""
    found = figure if figure.is_file() else None
    if found is None and figure.is_dir():
        found = next(iter(sorted(figure.glob("*.png"))), None)
    if found is not None and not (PICTURES / f"{name}.png").exists():
        PICTURES.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, PICTURES / f"{name}.png")


def missing(script: Path) -> bool:
    """Whether a script needs a package that is not installed."""
    names = {"sklearn", "flint", "torch", "jax"}
    text = script.read_text(encoding="utf-8")
    return any(
        re.search(rf"^\s*(import|from) {name}\b", text, re.MULTILINE)
        and importlib.util.find_spec(name) is None
        for name in names
    )


def package_digest() -> bytes:
    """Digest of the source of the package, the front of the explorer included."""
    here = Path(dmft.__file__).parent
    files = sorted(p for p in here.rglob("*") if p.suffix in (".py", ".js", ".css"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()


def api(folder: Path) -> None:
    """One page a name, in the groups of `help(dmft)`."""
    groups: dict[str, list[str]] = {}
    title, seen = "", set()
    for line in (dmft.__doc__ or "").splitlines():
        if re.fullmatch(r"[A-Z][a-z ]+", line):
            title = line
        if not title:
            continue
        for name in re.findall(r"\w+", line):
            if name in dmft.__all__ and name not in seen and not is_module(name):
                seen.add(name)
                groups.setdefault(title, []).append(name)
    others = [
        n for n in dmft.__all__ if n not in seen and not n.startswith("_") and not is_module(n)
    ]
    groups.setdefault("More", []).extend(others)
    if not groups["More"]:
        del groups["More"]
    text = (
        f"# API\n\nThe public names of dmft {VERSION}, in the groups of `help(dmft)`. Conventions "
        "(time, risk, widths) stand in [Conventions](../../reference/conventions.md).\n"
    )
    for title, names in groups.items():
        rows = "\n".join(f"   {name}" for name in names)
        text += (
            f"\n## {title}\n\n```{{eval-rst}}\n.. currentmodule:: dmft\n\n.. autosummary::\n"
            f"   :toctree: .\n   :nosignatures:\n\n{rows}\n```\n"
        )
    put(folder / "index.md", text)


def is_module(name: str) -> bool:
    """Whether a public name is a module."""
    return name in {"literature", "explore"} and hasattr(getattr(dmft, name), "__path__")
