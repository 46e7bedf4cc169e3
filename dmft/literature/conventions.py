"""How the conventions of papers map to those of this library (theory/one_pass 0).

Here networks are means over their units, f = (1/p) sum_j a_j sigma(h_j), time is
t = steps * gamma / (p d), the risk is E(f* - f)^2 / 2 without noise floor, and Delta is the
variance of the label noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmft.errors import BadParameter


@dataclass(frozen=True)
class Convention:
    """Dictionary of one paper: each of its quantities in terms of ours.

    Attributes
    ----------
    source : str
        Key of `dmft.display.bibliography`.
    network : str
        How its networks are obtained here.
    quantities : tuple of (theirs, ours)
    """

    source: str
    network: str
    quantities: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max(len(theirs) for theirs, _ in self.quantities)
        rows = [f"  {theirs:<{width}} = {ours}" for theirs, ours in self.quantities]
        return "\n".join([f"{self.source}: {self.network}", *rows])


CONVENTIONS = {
    c.source: c
    for c in (
        Convention(
            "saad_solla_1995",
            "sums over units: readouts a_j = p, a*_r = k; or unit readouts and p = k = K",
            (
                ("J", "W / sqrt(d)"),
                ("R_in", "M_in"),
                ("T", "P"),
                ("eta (a_j = p)", "gamma"),
                ("alpha (a_j = p)", "t p / gamma"),
                ("eta (unit readouts)", "gamma / K^2"),
                ("alpha (unit readouts)", "t K / gamma"),
                ("eps_g (unit readouts)", "K^2 risk"),
                ("noise std (unit readouts)", "K sqrt(Delta)"),
            ),
        ),
        Convention(
            "goldt_2019",
            "sums over units: readouts a_j = p v_j, a*_r = k v*_r",
            (("eta", "gamma"), ("alpha", "t p / gamma")),
        ),
        Convention(
            "veiga_2022",
            "the same networks; gamma = gamma_0 d^-kappa, p = p_0 d^delta",
            (("time", "(p_0 / gamma_0) t"),),
        ),
        Convention(
            "arnaboldi_2023_odes",
            "identical (also the code committee_learning)",
            (("gamma_over_p", "gamma / p"), ("noise", "Delta"), ("time", "t")),
        ),
        Convention(
            "arnaboldi_2024",
            "weights of unit length, fields without 1/sqrt(d) (also the code giant_learning)",
            (("w", "w / sqrt(d)"), ("gamma", "gamma / d"), ("I4_diagonal", "d / n_b")),
        ),
        Convention(
            "ben_arous_2021",
            "p = k = 1 on the unit sphere",
            (("delta, loss E^2 / 2", "gamma"), ("delta, loss E^2", "gamma / 2")),
        ),
    )
}


def convention(source: str) -> Convention:
    """Return the dictionary of a paper.

    Examples
    --------
    >>> from dmft.literature import convention
    >>> print(convention("veiga_2022"))
    veiga_2022: the same networks; gamma = gamma_0 d^-kappa, p = p_0 d^delta
      time = (p_0 / gamma_0) t
    """
    if source not in CONVENTIONS:
        raise BadParameter(f"no convention of {source!r}; there are {sorted(CONVENTIONS)}")
    return CONVENTIONS[source]
