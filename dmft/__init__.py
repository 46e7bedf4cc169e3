"""Mean-field theory of learning: declare, derive, build, solve, measure, show."""

__version__ = "0.1.0"
