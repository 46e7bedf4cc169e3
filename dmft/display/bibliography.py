"""BibTeX of the papers that docstrings cite as [key]."""

from __future__ import annotations

from pathlib import Path

from dmft.errors import BadParameter


def _entries() -> dict[str, str]:
    """Entries of the file by their keys."""
    text = Path(__file__).with_name("papers.bib").read_text(encoding="utf-8")
    every = text.strip().split("\n\n")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in every}


ENTRIES = _entries()


def bibtex(*keys: str) -> str:
    """Return the BibTeX entries of these keys; of all when none is given."""
    unknown = [key for key in keys if key not in ENTRIES]
    if unknown:
        raise BadParameter(f"no entry {unknown[0]!r}; available: {', '.join(ENTRIES)}")
    return "\n\n".join(ENTRIES[key] for key in keys or ENTRIES)
