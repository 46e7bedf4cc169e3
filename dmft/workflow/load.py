"""`load`: a saved record of any kind, from its file."""

from __future__ import annotations

from pathlib import Path

from dmft import netcdf
from dmft.analysis.boundary import Boundary
from dmft.analysis.diagram import RegionDiagram
from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.analysis.sweeps.sweep import Sweep
from dmft.record import Archived
from dmft.simulation.descent_runs import DescentEnsemble
from dmft.simulation.ensemble import Ensemble, NetworkEnsemble
from dmft.simulation.sequence_runs import SequenceEnsemble
from dmft.solvers.stochastic.ensemble import PathEnsemble
from dmft.solvers.trajectory import Trajectory
from dmft.solvers.two_time.run import DescentRun, NetworkRun, TwoTimeRun
from dmft.validation import checked
from dmft.workflow.static.bayes import BayesOptimal, StateEvolution
from dmft.workflow.static.erm import ERM, Separability
from dmft.workflow.static.message_passing import MessagePassing
from dmft.workflow.static.ridge import OptimalRidge
from dmft.workflow.static.spectral import Spectral
from dmft.workflow.static.thresholds import SampleComplexity, Thresholds

KINDS: tuple[type[Archived], ...] = (
    Trajectory, PathEnsemble, DescentRun, TwoTimeRun, Ensemble, SequenceEnsemble, DescentEnsemble,
    NetworkRun, NetworkEnsemble, RegionDiagram, PhaseDiagram, Boundary, Sweep,
    ERM, OptimalRidge, Separability, Spectral, MessagePassing, SampleComplexity, BayesOptimal,
    StateEvolution, Thresholds,
)  # fmt: skip


@checked
def load(path: str | Path) -> Archived:
    """Read a record that was written by its method `save`.

    Parameters
    ----------
    path : str or Path
        File written by the method ``save`` of a record.

    Returns
    -------
    Archived
        Record of the same class, equal to the saved one.

    Raises
    ------
    BadParameter
        If the file does not exist or cannot be read.
    DamagedFile
        If the file is truncated or changed, or was not written by this library. (A subclass of
        BadParameter; the message names the missing part.)
    MissingExtra
        If the extra ``io`` is not installed.

    Examples
    --------
    >>> import dmft, tempfile, pathlib
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=1.0)
    >>> path = run.save(pathlib.Path(tempfile.mkdtemp()) / "run.nc")
    >>> dmft.load(path) == run
    True
    """
    return netcdf.load(path, {kind.KIND: kind.restore for kind in KINDS})
