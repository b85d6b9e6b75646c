"""Programs of the guides with packages that the tests do not install: run where a package is."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
FENCE = re.compile(r"^```(python|py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RECIPES = {}
for page in ("data.md", "logging.md"):
    first, *rest = FENCE.findall((GUIDES / page).read_text())
    for kind, code in rest:
        if kind == "py":
            package = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)[0]
            RECIPES[f"{page}, {package}"] = first[1], code, package


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs(recipe, tmp_path, monkeypatch):
    first, code, package = RECIPES[recipe]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"it needs {package}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(first + code, {})
