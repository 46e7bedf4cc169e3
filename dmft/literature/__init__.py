"""Floor 5: named models of the literature, ready to use; BibTeX in `dmft.display.bibliography`.

Examples
--------
>>> import dmft
>>> dmft.literature.saad_solla(width=3).student.width
3
"""

from dmft.literature.conventions import CONVENTIONS, Convention, convention
from dmft.literature.models import hermite_committee, phase_retrieval, saad_solla

__all__ = [
    "CONVENTIONS",
    "Convention",
    "convention",
    "hermite_committee",
    "phase_retrieval",
    "saad_solla",
]
