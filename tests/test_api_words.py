"""The words of the public names: where they stand, what they say, and that their examples run.

Public is a name that `nestax` or one of its rooms (`nestax.flows`, `nestax.optim`, ...) declares:
defined there, or imported in the form `from x import y as y`, as type checkers read it. Files
inside a room are its own matter, as is `flows.internal`.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import io
import pkgutil
import re
import textwrap
import types
from pathlib import Path

import pytest

import nestax as nx

PAGES = Path(__file__).parents[1] / "docs" / "api"
PRELUDE = "import jax, jax.numpy as jnp, optax, nestax as nx\n"
# The names that users meet first; each has an example.
FIRST = [
    "Level", "Nest", "Nest.init", "Nest.step", "Nest.run", "Nest.gradient", "State",
    "State.replace", "Stream", "Stream.of", "Field", "Peers", "Process", "Held", "LevelInfo",
    "Direct", "Unroll", "Forward", "OneStep", "Implicit", "ES", "PES", "CG", "Neumann", "Nystrom",
    "best_response", "hypergradient", "flows.implicit_root", "check_gradient", "compare_flows",
    "level_table", "Nest.map", "Nest.levels", "evolution_gradient", "flows.solve_linear",
    "memory.HopeLM", "memory.TitansMemory", "memory.DeltaMemory", "memory.ContinuumMemory",
    "memory.delta_rule", "memory.generate", "optim.muon", "optim.m3", "optim.deep_momentum",
    "optim.delta_momentum", "runs.Watch",
]  # fmt: skip


def declared(module: types.ModuleType) -> dict[str, object]:
    """The public names of a module and their values; modules are left out."""
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    values = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {name: v for name, v in values.items() if not isinstance(v, types.ModuleType)}


def rooms() -> dict[str, types.ModuleType]:
    """The public modules of the library."""
    names = [found.name for found in pkgutil.iter_modules(nx.__path__)]
    names = [name for name in names if not name.startswith("_")]
    return {name: importlib.import_module(f"nestax.{name}") for name in names}


@functools.cache
def public() -> dict[str, object]:
    """Every public name by its shortest path, such as "Level" or "flows.Solver"."""
    found = declared(nx)
    for room, module in rooms().items():
        for name, value in declared(module).items():
            if found.get(name) is not value:
                found[f"{room}.{name}"] = value
    return found


def source(value: object) -> str:
    """The source of a function; nothing where `dataclass` has written it."""
    value = getattr(value, "fget", None) or getattr(value, "func", value)
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    except (OSError, TypeError):
        return ""


@functools.cache
def members() -> dict[str, tuple[type, object]]:
    """Every public method and property that the library gives a public class, and that class."""
    found = {}
    for path, cls in public().items():
        for base in reversed(cls.__mro__) if isinstance(cls, type) else ():
            if base.__module__.startswith("nestax"):
                for name, value in vars(base).items():
                    value = getattr(value, "__func__", value)
                    kinds = property | functools.cached_property | types.FunctionType
                    hidden = name.startswith(("_", "tree_"))  # `tree_`: how JAX takes it apart
                    if not hidden and isinstance(value, kinds):
                        found[f"{path}.{name}"] = cls, value
    return found


def documents(path: str, value: object) -> list[str]:
    """The docstring of a name; for a member also those of the members that it overrides."""
    if path not in members():
        make = vars(value).get("__init__") if isinstance(value, type) else None
        texts = [value.__doc__ or "", getattr(make, "__doc__", None) or ""]
        return [inspect.cleandoc(text) for text in (texts if source(make) else texts[:1])]
    cls, name = members()[path][0], path.rpartition(".")[2]
    said = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
    texts = [getattr(member, "__doc__", None) for member in said]
    return [inspect.cleandoc(text) for text in texts if text]


def section(text: str, *titles: str) -> str:
    """What stands indented below any of the titles."""
    pattern = rf"^(?:{'|'.join(titles)}):\n((?:(?:[ ]+.*)?\n)*)"
    return "".join(textwrap.dedent(block) for block in re.findall(pattern, text + "\n", re.M))


def entries(text: str, *titles: str) -> list[str]:
    """The names that a section explains, in order.

    Raises:
        ValueError: a line that explains none, or several.
    """
    names = []
    for line in section(text, *titles).splitlines():
        if line and not line.startswith(" "):
            entry = re.match(r"(\*{0,2}[A-Za-z_][\w.]*)(?: \([^)]*\))?: \S", line)
            if entry is None:
                raise ValueError(f"not one name and its meaning: {line!r}")
            names.append(entry[1].lstrip("*"))
    return names


def parameters(value: object) -> list[str]:
    if isinstance(value, property | functools.cached_property):
        return []
    if isinstance(value, type):
        value = value.__init__
        if value is object.__init__:
            return []
    names = list(inspect.signature(value).parameters)
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def raised(value: object) -> set[str]:
    """The errors that a function, or a class when it is made, raises in its own lines."""
    if isinstance(value, type):
        makers = (vars(value).get(name) for name in ("__init__", "__post_init__", "__check_init__"))
        return set().union(*(raised(make) for make in makers if make is not None))
    tree = ast.parse(source(value))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    names = {ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)}
    return names - {"NotImplementedError"}


def faults(path: str, value: object) -> list[str]:
    """What the docstring of a public name or member lacks."""
    texts = documents(path, value)
    if not texts or not texts[0]:
        return ["no docstring"]
    summary = texts[0].split("\n\n")[0]
    found = [] if summary.endswith((".", ":")) else ["the summary is no sentence of its own"]
    if ">>>" in "".join(texts):
        found.append("an example at the prompt, which no test runs")
    told, is_class = [], isinstance(value, type)
    for text in texts:
        try:
            told += entries(text, "Args", "Attributes")
            entries(text, "Raises")
        except ValueError as error:
            return [*found, str(error)]
    asked = [] if is_class and issubclass(value, BaseException) else parameters(value)
    if is_class:
        fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        asked += [field.name for field in fields] + list(getattr(value, "_fields", ()))
        asked = [name for name in dict.fromkeys(asked) if not name.startswith("_")]
    found += [f"{name} is not explained" for name in asked if name not in told]
    known = {*asked, *(dir(value) if is_class else ()), *_assigned(value)}
    found += [f"{name} is explained and does not exist" for name in told if name not in known]
    warned = [name for text in texts for name in entries(text, "Raises")]
    found += [f"{error} is raised, and not told" for error in raised(value) - set(warned)]
    if isinstance(value, types.FunctionType):
        result = value.__annotations__.get("return")
        plain = result in (None, "None") or (path in members() and not asked)  # the summary says it
        plain = plain or any(section(text, "Returns") for text in texts)
        found += [] if plain else ["no Returns"]
    return found


def _assigned(value: object) -> set[str]:
    """Attributes that the constructor of a class sets."""
    make = vars(value).get("__init__") if isinstance(value, type) else None
    return set(re.findall(r"\bself\.(\w+)", source(make))) if make else set()


def examples(path: str, value: object) -> list[str]:
    """The programs in the Example section of a docstring."""
    text = "".join(section(text, "Example") for text in documents(path, value)[:1])
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.M)


def everything() -> dict[str, object]:
    return {**public(), **{path: value for path, (_, value) in members().items()}}


def described(value: object) -> bool:
    """Whether it has a docstring of its own; those of constants are read by the strict build."""
    return isinstance(value, type | types.FunctionType | property | functools.cached_property)


def test_every_public_name_stands_on_one_page_under_its_shortest_path():
    found = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text()
        found += re.findall(r"^::: nestax\.(\S+)$", text, re.M)
        for path, options in re.findall(r"^::: nestax\.(\S+)\n((?:    .*\n?)*)", text, re.M):
            shown = dict(re.findall(r"\b(heading|toc_label): ([\w.]+)", options))
            wanted = {"heading": f"nx.{path}", "toc_label": path.rpartition(".")[2]}
            assert shown == wanted, f"{page.name}: {path}"
    twice = {path for path in found if found.count(path) > 1}
    assert not twice
    assert sorted(set(found) - set(public())) == [], "on a page, and no public name"
    assert sorted(set(public()) - set(found)) == [], "public, and on no page"


def test_rooms_hand_out_what_they_declare_and_nothing_else():
    for room, module in rooms().items():
        if hasattr(module, "__path__"):  # in a single file imports are private, as to type checkers
            seen = {
                name
                for name, value in vars(module).items()
                if not name.startswith("_") and not isinstance(value, types.ModuleType)
            }
            assert seen == set(declared(module)), room


def test_docstrings_explain_every_parameter_field_result_and_error():
    found = {}
    for path, value in everything().items():
        if described(value) and (lack := faults(path, value)):
            found[path] = lack
    assert not found, "\n".join(f"{path}: {'; '.join(lack)}" for path, lack in found.items())


def test_names_that_users_meet_first_have_an_example():
    assert [path for path in FIRST if not examples(path, everything()[path])] == []


def _programs() -> list:
    found = [(path, code) for path, v in everything().items() for code in examples(path, v)]
    seen = {}
    for path, code in found:  # a member that subclasses inherit is shown by each of them
        seen.setdefault(code, path)
    return [pytest.param(code, id=path) for code, path in seen.items()]


@pytest.mark.parametrize("code", _programs())
def test_example(code):
    if "import torch" in code and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(PRELUDE + code, "example", "exec"), {"__name__": "__main__"})
    expected = re.findall(r"^\s*print\(.*\)\s+# (.+)$", code, re.M)
    assert printed.getvalue().splitlines() == expected


def sound(rate: float, steps: int = 1) -> float:
    """Steps down.

    Args:
        rate: of each step.
        steps: how many.

    Returns:
        Where it ends.

    Raises:
        ValueError: rate below 0.
    """
    if rate < 0:
        raise ValueError(rate)
    return -rate * steps


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("rate: of each step.\n    steps:", "rate, steps:", "not one name and its meaning"),
        ("    rate: of each step.\n", "", "rate is not explained"),
        ("steps:", "stride:", "stride is explained and does not exist"),
        ("Returns:", "Gives:", "no Returns"),
        ("Raises:", "Fails:", "ValueError is raised, and not told"),
        ("Steps down.", "Steps down", "the summary is no sentence"),
        ("Steps down.", ">>> sound(1.0)", "an example at the prompt"),
    ],
)
def test_a_docstring_with_a_fault_is_found(right, wrong, fault):
    text = inspect.cleandoc(sound.__doc__)  # as Python 3.13 keeps it
    assert right in text and faults("sound", sound) == []
    spoilt = types.FunctionType(sound.__code__, globals(), "sound", sound.__defaults__)
    spoilt.__annotations__, spoilt.__doc__ = sound.__annotations__, text.replace(right, wrong)
    assert any(fault in found for found in faults("sound", spoilt))
