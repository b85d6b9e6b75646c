"""What importing nestax costs and brings."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import nestax as nx

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys, time
import jax
began = time.process_time()
import nestax
took = time.process_time() - began
heavy = {"PIL", "equinox", "matplotlib", "orbax", "pooch", "rich", "scipy", "sklearn", "tqdm"}
heavy |= {"torch", "tyro"}
print(took, sorted(heavy & set(sys.modules) - before))
"""


def test_import_is_quick_and_brings_no_plotting_progress_or_cli_package():
    program = PROGRAM.replace("began =", "before = set(sys.modules)\nbegan =", 1)
    took, loaded = [], ""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        seconds, loaded = done.stdout.split(" ", 1)
        took.append(float(seconds))
    assert loaded.strip() == "[]"
    assert min(took) < 1.0  # seconds of the processor: other processes may share it


def test_type_information_is_shipped():
    assert (Path(nx.__file__).parent / "py.typed").is_file()


def test_pypi_shows_the_readme_with_absolute_links_only():
    """What PyPI gets is made here as its plugin does, without a build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    plugin = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    source = (ROOT / "README.md").read_text()
    text = source
    for rule in plugin["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    text = text.replace("$HFPR_VERSION", project["project"]["version"])
    code = re.compile(r"^```.*?^```", re.S | re.M)
    assert code.findall(text) == code.findall(source)
    links = re.findall(
        r"\]\(([^)]*)\)|^\[[^\]]+\]: (\S+)|\b(?:href|src|srcset)=[\"']?([^\"'\s>]*)",
        code.sub("", text),
        re.M,
    )
    links = ["".join(found).split()[0] for found in links]
    anchors = {link for link in links if link.startswith("#")}
    assert [link for link in links if not link.startswith("https://") and link not in anchors] == []
    ours = r"https://(?:github\.com|raw\.githubusercontent\.com)/nestax/nestax/(?:blob/)?v[\d.]+/"
    paths = [re.sub(ours, "", link).partition("#")[0] for link in links if re.match(ours, link)]
    assert paths
    if not (ROOT / "PKG-INFO").exists():  # the source archive has no figures
        assert [path for path in paths if not (ROOT / path).exists()] == []


def test_nothing_that_is_read_can_hold_code():
    """SECURITY.md says so."""
    reads = re.compile(
        r"(?<![.\w])(?:eval|exec)\(|pickle\.(?:loads?|Unpickler)|allow_pickle|(?:np|numpy)\.load\("
        r"|^\s*(?:import|from) (?:dill|cloudpickle|joblib|marshal|shelve|yaml)\b",
        re.M,
    )
    for path in (ROOT / "src").rglob("*.py"):
        found = [one for one in reads.findall(path.read_text()) if one]
        assert found == [], path


def test_the_lowest_versions_are_those_that_are_tested():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["studies"],
        *project["dependency-groups"]["test"],
    ]
    for requirement in map(Requirement, declared):
        lowest = next(iter(requirement.specifier))
        assert lowest.operator == ">=", requirement
        assert Version(pins[canonicalize_name(requirement.name)]) == Version(lowest.version)
