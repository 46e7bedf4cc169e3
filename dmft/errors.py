"""Errors that `dmft` raises: each names the value, the reason and the way out."""

from __future__ import annotations


class DmftError(Exception):
    """Base of all errors raised by this package."""


class NotClosed(DmftError, ValueError):
    """A Gaussian expectation has no closed form in the calculus; names the sub-expression.

    `expression` and `reason` hold what the message says of it, where that is known.
    """

    expression: object = None
    reason: str = ""

    @property
    def because(self) -> str:
        """The reason as a sentence."""
        return f"{self.reason[:1].upper()}{self.reason[1:]}." if self.reason else ""


class InvalidCovariance(DmftError, ValueError):
    """A covariance is not symmetric, not finite or not positive semi-definite."""


class ShapeMismatch(DmftError, ValueError):
    """An array does not have the shape that the model requires."""


class BadParameter(DmftError, ValueError):
    """A parameter is missing, unknown or outside its domain."""


class DamagedFile(BadParameter):
    """A file is not as this library wrote it: cut off, changed, or of another program."""


class ExpressionRefused(DmftError, ValueError):
    """A text expression or a TOML declaration is outside what the reader allows."""


class MissingExtra(DmftError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class UnprovenStep(DmftError, ArithmeticError):
    """A step of an explanation whose two sides differ: the engine, or its account, is wrong."""

    def __init__(self, message: str, rule: str = "") -> None:
        """Keep the rule of the step."""
        super().__init__(message)
        self.rule = rule
