"""Answers as JSON: arrays as lists, numbers that are not finite as null."""

from __future__ import annotations

import json
from typing import Any

from dmft.record import plain


def encoded(value: Any) -> str:
    """JSON of an answer.

    Examples
    --------
    >>> import numpy as np
    >>> encoded({"risk": np.array([1.0, np.nan]), "status": "ok"})
    '{"risk": [1.0, null], "status": "ok"}'
    """
    return json.dumps(plain(value), allow_nan=False)
