"""What the tests of the studies share."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nestax.runs import RunFolder
from nestax_studies import lab


@pytest.fixture
def folder():
    """(path, settings) -> a new run's folder, with settings as they come back from it."""

    def create(path, settings):
        asked = json.loads(json.dumps(dataclasses.asdict(settings)))
        return RunFolder.create(path, "study", asked)

    return create


@pytest.fixture
def desk(tmp_path):
    """What a stage works with."""
    return lab.Desk(lambda text: None, tmp_path / "desk")


@pytest.fixture
def before():
    """(name, found, rtol, atol): holds records against the numbers that the same settings gave
    before the studies were moved, stored in before/<name>.json; what is not stored is not
    compared."""

    def compare(stored, found, where, close):
        if isinstance(stored, dict):
            for key, value in stored.items():
                compare(value, found[key], f"{where}/{key}", close)
        elif isinstance(stored, str) or stored is None:
            assert found == stored, where
        else:
            stored, found = (np.asarray(one, float) for one in (stored, found))
            np.testing.assert_allclose(found, stored, err_msg=where, **close)

    def check(name, found, rtol=2e-4, atol=1e-6):
        path = Path(__file__).parent / "before" / f"{name}.json"
        compare(json.loads(path.read_text()), found, name, {"rtol": rtol, "atol": atol})

    return check
