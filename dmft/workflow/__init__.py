"""Floor 6: verbs that span floors."""

from dmft.workflow.escape import escape_time
from dmft.workflow.load import load
from dmft.workflow.phase_diagram import phase_diagram
from dmft.workflow.solve import solve

__all__ = ["escape_time", "load", "phase_diagram", "solve"]
