"""Who may watch a run: functions, loggers, folders, notebooks; what they are told, and stops."""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.runs import RunFolder, Watch, to_writer
from nestax.runs.progress import NotebookBar

KEY = jax.random.key(0)


def loss(v, b):
    error = jnp.sum((v["w"] - b) ** 2)
    return error, {"far": error > 1, "aux": {"first": v["w"][0]}, "vector": v["w"]}


@pytest.fixture(scope="module")
def nest():
    """Two updates of w a step, and three copies."""
    w = nx.Level(
        "w", loss, optax.sgd(0.1), lambda task, key: jax.random.normal(key, (2,)),
        start=lambda v, task, key: v["s"], horizon=40,
    )  # fmt: skip
    s = nx.Level("s", lambda v, b: jnp.sum((v["s"] - v["w"]) ** 2), optax.sgd(0.1), every=2)
    made = nx.Nest([w, s], copies=3)
    return made, made.init({"s": jnp.ones(2)}, KEY)


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


def test_a_function_is_told_of_every_step_and_stops_the_run_there(nest, tmp_path):
    nest, begun = nest
    seen = []

    def tell(step, numbers):
        seen.append((step, numbers))
        return step == 11

    state, info = nest.run(begun, 40, watch=tell)
    expected, reports = nest.run(begun, 11)
    assert same(state, expected) and same(info, reports)
    assert [step for step, _ in seen] == list(range(1, 12))
    names = {"loss", "gradient_norm", "far", "aux/first"}
    for (_, numbers), i in zip(seen, range(11), strict=True):
        w, s, last = info["w"], info["s"], 2 * i + 1
        assert set(numbers["w"]) == names and set(numbers["s"]) == {"loss", "gradient_norm"}
        assert numbers["w"]["loss"] == pytest.approx(float(w.loss[last].mean()))
        assert numbers["w"]["far"] == pytest.approx(float(w.user["far"][last].mean()))
        assert numbers["w"]["aux/first"] == pytest.approx(
            float(w.user["aux"]["first"][last].mean())
        )
        assert numbers["s"]["gradient_norm"] == pytest.approx(float(s.gradient_norm[i]))
    # The number of steps is that of the state's life.
    seen.clear()
    nest.run(state, 2, watch=[tell])
    assert [step for step, _ in seen] == [12, 13]
    with pytest.raises(TypeError, match="returned 'yes'"):
        nest.run(begun, 3, watch=lambda step, numbers: "yes")


def test_a_run_that_a_function_stopped_is_finished(nest, tmp_path):
    nest, begun = nest
    calls = []

    def stop(step, numbers):
        calls.append(step)
        return np.bool_(step == 7)

    quiet = lambda: Watch(tmp_path / "run", progress=False)  # noqa: E731
    state, _ = nest.run(begun, 30, watch=(quiet(), stop))
    calls.clear()
    again, info = nest.run(begun, 30, watch=(quiet(), stop))
    assert same(state, again) and not calls and len(info["s"].loss) == 0
    longer, _ = nest.run(begun, 40, watch=[quiet(), stop])
    assert calls == list(range(8, 41)) and same(longer, nest.run(begun, 40)[0])


def test_a_folder_a_function_and_loggers_at_once(nest, tmp_path, capsys):
    nest, begun = nest
    points, logged = [], []
    board = types.SimpleNamespace(add_scalar=lambda *point: points.append(point))
    wandb = types.SimpleNamespace(log=lambda numbers, step: logged.append((step, numbers)))
    steps = []
    watch = [str(tmp_path / "run"), lambda step, numbers: steps.append(step), board]
    _, info = nest.run(begun, 12, watch=[*watch, to_writer(wandb, every=5)])
    assert steps == list(range(1, 13)) and [step for step, _ in logged] == [5, 10]
    assert len(points) == 12 * 6 and ("s/loss", float(info["s"].loss[3]), 4) in points
    assert set(logged[0][1]) == {name for name, _, _ in points}
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == steps
    assert lines[4]["info"]["w"]["aux/first"] == dict(logged)[5]["w/aux/first"]
    assert lines[4]["gradient_norm"]["s"] == float(info["s"].gradient_norm[4])
    for wrong in (3, [1.5], {"w": 1}):
        with pytest.raises(TypeError, match="watch takes a path, a function"):
            nest.run(begun, 1, watch=wrong)
    with pytest.raises(ValueError, match="one folder"):
        nest.run(begun, 1, watch=[tmp_path / "a", tmp_path / "b"])
    with pytest.raises(TypeError, match="to_writer: expected"):
        to_writer(print)
    with pytest.raises(ValueError, match="at least 1"):
        to_writer(wandb, every=0)


def test_an_interruption_loses_nothing(nest, tmp_path, monkeypatch):
    nest, begun = nest
    whole, _ = nest.run(begun, 20, watch=Watch(tmp_path / "whole", progress=False))

    def interrupt(step, numbers):
        if step == 6:
            raise KeyboardInterrupt

    watch = [Watch(tmp_path / "cut", progress=False, checkpoint_seconds=1000)]
    with pytest.raises(KeyboardInterrupt):
        nest.run(begun, 20, watch=[*watch, interrupt])
    append = RunFolder.append

    def half(self, *records):
        late = records[-1]["step"] >= 10
        append(self, *(records[:1] if late else records))
        if late:
            raise KeyboardInterrupt

    with RunFolder(tmp_path / "cut") as folder:
        done = folder.saved()["step"]
        assert done >= 3 and len(folder.metrics()) == done
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunFolder, "append", half)
        watch = Watch(tmp_path / "cut", progress=False, checkpoint_seconds=1000)
        nest.run(begun, 20, watch=watch)
    end, _ = nest.run(begun, 20, watch=Watch(tmp_path / "cut", progress=False))
    assert same(end, whole)
    names = ("whole", "cut")
    one, other = ((tmp_path / name / "metrics.jsonl").read_text() for name in names)
    assert one == other


def test_a_divergence_leaves_the_last_good_state_and_the_bad_step(tmp_path):
    level = nx.Level("w", lambda v, b: jnp.log(v["w"]), optax.sgd(1.0))
    nest, told = nx.Nest([level]), []
    begun = nest.init({"w": 2.0}, KEY)
    for _ in range(2):  # the same call ends in the same way
        watch = [Watch(tmp_path / "run", progress=False), lambda *a: told.append(a)]
        with pytest.raises(nx.DivergenceError, match=r"checkpoint of step 3 and the .*run") as e:
            nest.run(begun, 50, watch=watch)
        assert e.value.step == 3
        with RunFolder(tmp_path / "run") as folder:
            assert folder.saved()["step"] == 3
            assert same(folder.restore(begun), e.value.state)
            rows = folder.metrics()
        assert [row["step"] for row in rows] == [1, 2, 3, 4] and rows[3]["loss"]["w"] is None
        assert rows[0]["loss"]["w"] == pytest.approx(np.log(2))
    assert [step for step, _ in told] == [1, 2, 3, 4, 4] and np.isnan(told[3][1]["w"]["loss"])
    # A function may end the run before the bad step, in the same piece or not.
    state, _ = nest.run(begun, 50, watch=lambda step, numbers: step == 3)
    assert same(state, e.value.state)


def test_what_an_optimizer_copes_with_is_null_among_the_measurements(tmp_path):
    stream = nx.Stream(lambda index: np.float32([1, np.nan, 3][index]))
    optimizer = optax.apply_if_finite(optax.sgd(0.5), 2)
    nest = nx.Nest([nx.Level("w", lambda v, b: v["w"] * b, optimizer, stream)])
    with pytest.warns(UserWarning, match="goes on"):
        nest.run(nest.init({"w": 1.0}, KEY), 3, watch=Watch(tmp_path, progress=False))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"]["w"] for row in rows] == [1.0, None, 1.5]
    assert rows[1]["gradient_norm"]["w"] is None


BASE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rich", "orbax", "pooch", "matplotlib", "tyro", "tqdm"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import jax, optax
import nestax as nx
nest = nx.Nest([nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1))])
state = nest.init({"w": 1.0}, jax.random.key(0))
steps = []
nest.run(state, 3, watch=lambda step, numbers: steps.append(step))
nest.run(state, 3, watch=nx.runs.Watch())  # plain lines need no package
try:
    nest.run(state, 3, watch=sys.argv[1])
except nx.runs.RunError as error:
    print(steps, error)
"""


def test_a_base_install_watches_too_and_says_what_a_folder_needs(tmp_path):
    command = [sys.executable, "-c", BASE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[1, 2, 3] a run's checkpoints need the package orbax-checkpoint")
    assert 'pip install "nestax[studies]"' in done.stdout


def test_a_notebook_shows_a_bar_by_itself(nest, monkeypatch):
    nest, begun = nest
    shown = []

    class Handle:
        def update(self, data, raw):
            shown[-1] = data

    def display(data, raw, display_id):
        shown.append(data)
        return Handle()

    shell = types.SimpleNamespace(kernel=object(), execution_count=1)
    root = types.ModuleType("IPython")
    root.get_ipython = lambda: shell
    inner = types.ModuleType("IPython.display")
    inner.display = display
    monkeypatch.setitem(sys.modules, "IPython", root)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    monkeypatch.setattr("nestax.runs.progress._QUIET", 600.0)
    nest.run(begun, 5)
    assert not shown  # over before anybody could look
    monkeypatch.setattr("nestax.runs.progress._QUIET", -1.0)
    monkeypatch.setattr(NotebookBar, "_shown", None)
    plain, _ = nest.run(begun, 5)
    nest.run(begun, 5, watch=lambda step, numbers: None)
    assert len(shown) == 1  # one for each cell
    assert "100%" in shown[0]["text/plain"] and 'value="5" max="5"' in shown[0]["text/html"]
    shell.execution_count = 2
    nest.run(begun, 5, watch=Watch())
    assert len(shown) == 2
    shell.kernel = None  # IPython on a terminal
    again, _ = nest.run(begun, 5)
    assert len(shown) == 2 and same(plain, again)
