"""What the tests of the studies share."""

import dataclasses
import json

import pytest

from nestax.runs import RunFolder


@pytest.fixture
def folder():
    """(path, settings) -> a new run's folder, with settings as they come back from it."""

    def create(path, settings):
        asked = json.loads(json.dumps(dataclasses.asdict(settings)))
        return RunFolder.create(path, "study", asked)

    return create
