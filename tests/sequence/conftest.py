"""Published numbers of sequence models."""

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sequence_vectors():
    path = Path(__file__).parent.parent / "reference" / "sequence.json"
    return json.loads(path.read_text())
