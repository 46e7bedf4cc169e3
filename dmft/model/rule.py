"""What an algorithm says of its own update field: where psi is written, and how a sample moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

import sympy as sp

from dmft.errors import BadParameter
from dmft.record import Shown

# "module:function", or the function itself.
Named = str | Callable[..., Any]
# psi = a sigma'(h) e at the fields of the sample itself.
PLAIN = "dmft.equations.update.program:plain"


def _dictionary(name: str) -> Callable[..., Any]:
    return at_use(f"dmft.model.torch:{name}", "the dictionary to torch.optim")


class InTorch:
    """What algorithms are in torch.optim (`dmft.model.torch` has the dictionary)."""

    def as_torch(self, dim: int, width: int = 1, *, scaled_inputs: bool = False) -> dict[str, Any]:
        r"""Return the arguments of the optimiser of torch.optim that takes the same steps.

        Parameters
        ----------
        dim, width : int
            Input dimension d, and width p of the student f = (1/p) sum_j a_j sigma(h_j).
        scaled_inputs : bool
            With False the code stores theta = W/sqrt(d) and uses the inputs x. With True it stores
            W and uses the inputs x/sqrt(d).

        Returns
        -------
        dict
            Arguments of torch.optim.SGD, Adagrad, RMSprop or Adam (AdamW with a decoupled decay;
            Adam with betas (0, 0) for `SignSGD`). They do not contain batch_size and loss. Initial
            states must be set separately: `momentum_buffer` = 0 for `Momentum`, and `exp_avg_sq`
            with a large `step` for a second moment V(0).

        Raises
        ------
        BadParameter
            For each hyperparameter that the optimiser does not have, such as a rate of the
            readouts.

        Examples
        --------
        >>> import dmft
        >>> dmft.SGD(0.5, momentum=0.5).as_torch(dim=100)
        {'lr': 0.005, 'momentum': 0.5}
        """
        found: dict[str, Any] = _dictionary("as_torch")(self, dim, width, scaled_inputs)
        return found

    @classmethod
    def from_torch(
        cls,
        given: Any = None,
        dim: int | None = None,
        *,
        width: int = 1,
        scaled_inputs: bool = False,
        **arguments: Any,
    ) -> Any:
        """Return the algorithm that takes the same steps as an optimiser of torch.optim.

        Parameters
        ----------
        given : torch optimiser or mapping, optional
            The optimiser or its arguments, which `arguments` replaces or extends.
        dim, width : int
            Input dimension d, and width p of the network.
        scaled_inputs : bool
            As in `as_torch`.
        **arguments
            Arguments of torch (lr, betas ...), and arguments of the algorithm that torch does not
            have: batch_size, loss, initial and decoupled (True by default for an AdamW object).

        Returns
        -------
        algorithm
            Algorithm of this class.

        Raises
        ------
        BadParameter

        Examples
        --------
        >>> import dmft
        >>> dmft.SGD.from_torch(dim=100, lr=0.005, momentum=0.5).learning_rate
        0.500000000000000
        """
        if dim is None:
            raise BadParameter(
                "dim is missing: the input dimension, which determines the scale of the rates"
            )
        return _dictionary("from_torch")(cls, given, (dim, width, scaled_inputs), arguments)


class UpdateRule(Shown):
    r"""Base class of records that define psi: one-pass algorithms and values of `repeat`.

    A new algorithm is a frozen dataclass that extends `dmft.SGD`, or this class if it is passed as
    ``SGD(..., repeat=...)``. It names two functions, which are imported when they are used. Records
    can be defined outside the library.

    Attributes
    ----------
    written_by : str or function
        Function that writes psi in symbols. It takes the `dmft.equations.update.program.Writer` of
        one sample and returns its `Program`.
    simulated_by : str or function
        Function that computes the update of one sample for `dmft.simulate`, by plain loops compiled
        by Numba, with the arguments of `dmft.simulation.steps.weights.ARGUMENTS`. Empty if there is
        none, or if it is the same as for plain SGD.

    Examples
    --------
    >>> import dmft
    >>> dmft.SGD(0.5).is_plain, dmft.SGD(0.5, repeat=dmft.Repeat(3)).rule.passes
    (True, 3)
    """

    written_by: ClassVar[Named] = ""
    simulated_by: ClassVar[Named] = ""
    # Whether psi is one gradient that is shortened, which simulated steps do themselves.
    shortens: ClassVar[bool] = False

    @property
    def rule(self) -> UpdateRule:
        """Record that defines psi: this one."""
        return self

    @property
    def is_plain(self) -> bool:
        """Whether psi is one gradient at the fields of the sample."""
        return self.rule is self and type(self).written_by == PLAIN

    @property
    def passes(self) -> int:
        """Number of complete steps with each batch."""
        return 1

    @property
    def scalars(self) -> Mapping[str, sp.Expr]:
        """Parameters of psi by name, which are symbols in psi and run-time values."""
        return {}


def at_use(named: Named, what: str) -> Callable[..., Any]:
    """The function that a record names."""
    if not isinstance(named, str):
        # A function of the class, which would take the record for its first argument.
        return getattr(named, "__func__", named)
    module, _, function = named.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadParameter(f"{what} is named {named!r}, 'module:function': {error}") from error
    return found


def update_of(rule: UpdateRule) -> Callable[..., None] | None:
    """The update of one sample that a record names; None where it is one gradient."""
    if rule.is_plain or rule.shortens:
        return None
    own = type(rule).__name__
    if not rule.simulated_by:
        raise BadParameter(
            f"{own} defines no update of a sample: set simulated_by = 'module:function' (see "
            "dmft.UpdateRule), or use dmft.solve"
        )
    return at_use(rule.simulated_by, f"simulated_by of {own}")
