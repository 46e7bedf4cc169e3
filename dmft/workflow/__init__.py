"""Floor 6: verbs that span floors."""

from dmft.analysis.boundary import Boundary, BoundaryCurve
from dmft.analysis.sweep import Sweep
from dmft.workflow.boundary import boundary
from dmft.workflow.branches import fixed_point_branch
from dmft.workflow.certify import Certificate, certify, certify_hermite
from dmft.workflow.escape import escape_time
from dmft.workflow.fixed_points import fixed_points, stability
from dmft.workflow.landscape import landscape, landscape_boundary, landscape_diagram
from dmft.workflow.linear_noise import linear_noise
from dmft.workflow.load import load
from dmft.workflow.phase_diagram import phase_diagram
from dmft.workflow.solve import solve
from dmft.workflow.stages import Stage, solve_stages
from dmft.workflow.sweep import sweep

__all__ = [
    "Boundary",
    "BoundaryCurve",
    "Certificate",
    "Stage",
    "Sweep",
    "boundary",
    "certify",
    "certify_hermite",
    "escape_time",
    "fixed_point_branch",
    "fixed_points",
    "landscape",
    "landscape_boundary",
    "landscape_diagram",
    "linear_noise",
    "load",
    "phase_diagram",
    "solve",
    "solve_stages",
    "stability",
    "sweep",
]
