"""Floor 6: verbs that span floors."""

from dmft.workflow.solve import solve

__all__ = ["solve"]
