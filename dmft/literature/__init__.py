"""Floor 5: named models of the literature, ready to use; BibTeX in `dmft.display.bibliography`."""

from dmft.literature.models import hermite_committee, phase_retrieval, saad_solla

__all__ = ["hermite_committee", "phase_retrieval", "saad_solla"]
