"""Linear solvers against numpy, at the places where such solvers are known to fail."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from references.implicit import neumann, nystrom

from nestax.flows import CG, Dense, Identity, Lineax, Neumann, Nystrom, Solver
from nestax.flows._nystrom import _random
from nestax.flows._solvers import check_count, check_number, check_solver

ALL = [CG(30), Neumann(30), Neumann(30, 0.1), Nystrom(3), Nystrom(7), Dense(), Identity(0.5)]


def spd(n, condition, seed=0, dtype=np.float64):
    """A symmetric positive definite matrix with eigenvalues from 1 down to 1 / condition."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = axes @ np.diag(np.logspace(0, -np.log10(condition), n)) @ axes.T
    return ((matrix + matrix.T) / 2).astype(dtype), rng.normal(size=n).astype(dtype)


@functools.partial(jax.jit, static_argnums=0)
def solve(solver, matrix, b):
    return solver.solve(lambda x: matrix @ x, b)


def lineax_solvers():
    return [
        Lineax(lx.CG(rtol=1e-12, atol=1e-12), tags=lx.positive_semidefinite_tag),
        Lineax(lx.GMRES(rtol=1e-12, atol=1e-12)),
        Lineax(lx.LU()),
    ]


@pytest.mark.parametrize(
    "solver", [CG(30), Neumann(400), Neumann(400, 1.0), Nystrom(9, damping=0), Dense()]
)
def test_exact_on_a_pytree(x64, solver):
    matrix, b = spd(9, 10.0)
    tree = {"a": b[:4].reshape(2, 2), "b": [b[4], b[5:8]], "c": b[8:].reshape(1, 1, 1)}
    flat, unravel = jax.flatten_util.ravel_pytree(tree)
    product = lambda x: unravel(matrix @ jax.flatten_util.ravel_pytree(x)[0])  # noqa: E731
    found, info = jax.jit(lambda tree: solver.solve(product, tree))(tree)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    expected = np.linalg.solve(matrix, np.asarray(flat))
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(found)[0], expected, rtol=1e-9)
    assert info.residual < 1e-10
    assert not info.diverged


def test_lineax_solvers(x64):
    matrix, b = spd(9, 10.0)
    for solver in lineax_solvers():
        found, info = solve(solver, matrix, b)
        np.testing.assert_allclose(found, np.linalg.solve(matrix, b), rtol=1e-9)
        assert info.residual < 1e-10
        assert not info.diverged


def test_lineax_running_out_of_steps_is_no_divergence(x64):
    matrix, b = spd(9, 100.0)
    short = Lineax(lx.CG(rtol=1e-12, atol=0, max_steps=3), tags=lx.positive_semidefinite_tag)
    _, info = solve(short, matrix, b)
    assert info.residual > 1e-3
    assert not info.diverged
    assert short.symmetric
    assert not Lineax(lx.GMRES(rtol=1e-6, atol=1e-6)).symmetric


def test_lineax_is_needed_only_when_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "lineax", None)
    solver = Lineax("any")
    with pytest.raises(ImportError, match="pip install lineax"):
        solver.solve(lambda x: x, jnp.ones(2))


@pytest.mark.parametrize("solver", ALL)
def test_the_reported_residual_is_the_true_one(x64, solver):
    matrix, b = spd(7, 50.0)
    found, info = solve(solver, matrix, b)
    expected = np.linalg.norm(b - matrix @ np.asarray(found)) / np.linalg.norm(b)
    np.testing.assert_allclose(info.residual, expected, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(
    ("solver", "products"),
    [
        (CG(4), 4),
        (Neumann(30, 0.1), 29),
        (Neumann(30), 39),
        (Nystrom(3), 3),
        (Nystrom(7), 7),
        (Dense(), 7),
        (Identity(0.5), 0),
    ],
)
def test_products_are_counted(x64, solver, products):
    """The one of the residual is not among them: where nobody looks at it, none is computed."""
    matrix, b = spd(7, 50.0)
    assert solve(solver, matrix, b)[1].products == products
    calls = []

    def product(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.asarray(matrix) @ x

    if isinstance(solver, (CG, Neumann)):  # the others take all of theirs in one batch
        jax.block_until_ready(jax.jit(lambda b: solver.solve(product, b))(jnp.asarray(b)))
        jax.effects_barrier()
        assert len(calls) == products + 1


# ---- conjugate gradients


def test_cg_is_exact_in_as_many_steps_as_there_are_eigenvalues(x64):
    for c in (1e-8, 1.0, 1e8):
        found, info = solve(CG(20), c * np.eye(6), np.arange(1.0, 7.0))
        np.testing.assert_allclose(found, np.arange(1.0, 7.0) / c, rtol=1e-14)
        assert info.products == 1
        found, info = solve(CG(20), np.array([[c]]), np.array([3.0]))
        np.testing.assert_allclose(found, [3.0 / c], rtol=1e-14)
        assert info.products == 1
    matrix, b = spd(12, 10.0)
    found, info = solve(CG(12), matrix, b)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, b), rtol=1e-10)
    matrix = np.diag([1.0, 1.0, 1.0, 5.0, 5.0, 9.0])
    assert solve(CG(20), matrix, np.arange(1.0, 7.0))[1].products == 3


def test_cg_on_a_badly_conditioned_system(x64):
    matrix, b = spd(60, 1e4)
    found, info = solve(CG(1000), matrix, b)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, b), rtol=1e-9)
    assert info.products < 300
    assert not info.diverged


@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_cg_stays_finite_long_after_it_converged_in_float32(tolerance):
    matrix, b = spd(20, 30.0, dtype=np.float32)
    for scale in (1e-6, 1.0, 1e6):
        found, info = solve(CG(150, tolerance=tolerance), np.float32(scale) * matrix, b)
        expected = np.linalg.solve(matrix.astype(float), b) / scale
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
        assert info.residual < 1e-5
        assert not info.diverged


def test_cg_on_a_million_equal_eigenvalues_in_float32():
    b = jnp.asarray(np.random.default_rng(0).normal(size=1_000_000), jnp.float32)
    compiled = jax.jit(lambda s, b: CG(100).solve(lambda x: s * x, b))
    for s in (1e-3, 1e-1, 1.0, 10.0, 1e3):
        found, info = compiled(s, b)
        np.testing.assert_allclose(found * s, b, rtol=1e-5)
        assert info.products <= 3
        assert not info.diverged


def test_cg_damping(x64):
    matrix, b = spd(8, 100.0)
    found, info = solve(CG(50, damping=0.3), matrix, b)
    np.testing.assert_allclose(found, np.linalg.solve(matrix + 0.3 * np.eye(8), b), rtol=1e-10)
    expected = 0.3 * np.linalg.norm(found) / np.linalg.norm(b)
    np.testing.assert_allclose(info.residual, expected, rtol=1e-8)


def test_cg_solves_negative_definite_systems_and_reports_what_has_no_curvature(x64):
    matrix, b = spd(8, 10.0)
    found, info = solve(CG(50), -matrix, b)
    np.testing.assert_allclose(found, -np.linalg.solve(matrix, b), rtol=1e-10)
    assert not info.diverged
    for matrix in (np.zeros((2, 2)), np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [-1.0, 0.0]])):
        found, info = solve(CG(50), matrix, np.ones(2))
        assert info.diverged
        assert np.all(np.isfinite(found))
        np.testing.assert_allclose(info.residual, 1.0)


def test_cg_finds_a_solution_of_a_singular_system_that_has_one(x64):
    rng = np.random.default_rng(3)
    root = rng.normal(size=(9, 4))
    b = root @ root.T @ rng.normal(size=9)
    found, info = solve(CG(100), root @ root.T, b)
    np.testing.assert_allclose(found, np.linalg.pinv(root @ root.T) @ b, rtol=1e-8)
    assert not info.diverged
    _, info = solve(CG(100), root @ root.T, rng.normal(size=9))
    assert info.diverged


def test_cg_in_a_batch_stops_each_system_by_itself(x64):
    matrices = np.stack([np.eye(6), spd(6, 4.0)[0], spd(6, 1e3)[0], np.full((6, 6), np.nan)])
    b = np.random.default_rng(1).normal(size=(4, 6))
    one = lambda m, b: CG(40).solve(lambda x: m @ x, b)  # noqa: E731
    found, info = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(matrices, b))
    for i in range(3):
        alone, its = jax.jit(one)(matrices[i], b[i])
        np.testing.assert_allclose(found[i], alone, rtol=1e-10)
        assert abs(info.products[i] - its.products) <= 1  # where rounding decides
    assert info.products[0] < info.products[1] < info.products[2]
    assert list(info.diverged) == [False, False, False, True]


# ---- Neumann series


@pytest.mark.parametrize("terms", [1, 2, 3, 10])
def test_neumann_is_the_truncated_series(x64, terms):
    rng = np.random.default_rng(4)
    matrix, b = rng.normal(size=(6, 6)), rng.normal(size=6)
    found, _ = solve(Neumann(terms, 0.07), matrix, b)
    np.testing.assert_allclose(found, neumann(matrix, b, terms, 0.07), rtol=1e-12)


def test_neumann_reports_divergence(x64):
    matrix, b = spd(6, 3.0)
    for terms in (1, 2, 3000):
        assert not solve(Neumann(terms, 1.9), matrix, b)[1].diverged
        assert solve(Neumann(terms, 2.5), 3 * matrix, b)[1].diverged
    # On the way up, though still better than no answer at all.
    _, info = solve(Neumann(40, 0.5), np.diag([1.0, -0.1]), np.array([1.0, 0.01]))
    assert info.residual < 0.1
    assert info.diverged
    _, info = solve(Neumann(5000, 2.5), 3 * matrix.astype(np.float32), b.astype(np.float32))
    assert info.diverged


def test_automatic_rate_is_near_the_best_safe_one(x64):
    for seed, scale in enumerate((1e-9, -1.0, 1e9)):
        # A maximum's Hessian is negative: so is the rate.
        matrix, b = spd(200, 10.0, seed)
        found, info = solve(Neumann(1, "auto"), scale * matrix, b)
        rate = np.dot(found, b) / np.dot(b, b) * scale
        assert 1.0 <= rate < 1.25
        _, info = solve(Neumann(300, "auto"), scale * matrix, b)
        assert not info.diverged
        assert info.residual < 1e-9


def test_automatic_rate_is_safe_with_one_large_eigenvalue_among_many():
    """What 10 power iterations promise: an estimate not short by half, for any spectrum."""
    eigenvalues = jnp.full(1_000_000, 0.45).at[123_456].set(1.0)
    b = jnp.asarray(np.random.default_rng(0).normal(size=1_000_000), jnp.float32)
    b = b.at[123_456].set(0)
    solver = lambda b: Neumann(60).solve(lambda x: eigenvalues * x, b)  # noqa: E731
    found, info = jax.jit(solver)(b)
    assert not info.diverged
    assert np.linalg.norm(found * eigenvalues - b) < 1e-5 * np.linalg.norm(b)


# ---- Nyström


@pytest.mark.parametrize("rank", [3, 8])
@pytest.mark.parametrize("tail", ["captured", "zero"])
def test_nystrom_equals_the_formula_written_out(x64, rank, tail):
    matrix, b = spd(8, 100.0)
    found, _ = solve(Nystrom(rank, damping=0.05, tail=tail, seed=5), matrix, b)
    sketch = np.eye(8) if rank == 8 else np.asarray(_random(jnp.asarray(b), rank, 5)).T
    np.testing.assert_allclose(sketch.T @ sketch, np.eye(rank), atol=1e-13)
    np.testing.assert_allclose(found, nystrom(matrix, b, sketch, 0.05, tail), rtol=1e-9)


def test_nystrom_is_exact_where_the_rank_suffices(x64):
    rng = np.random.default_rng(6)
    b, root = rng.normal(size=30), rng.normal(size=(30, 4))
    low = root @ root.T
    found, _ = solve(Nystrom(4, damping=0.1, tail="zero"), low, b)
    np.testing.assert_allclose(found, np.linalg.solve(low + 0.1 * np.eye(30), b), rtol=1e-8)
    # Low rank and weight decay: the flat rest is answered by its own curvature.
    matrix = low + 0.02 * np.eye(30)
    found, _ = solve(Nystrom(5), matrix, b)
    exact = np.linalg.solve(matrix, b)
    assert np.linalg.norm(found - exact) < 0.01 * np.linalg.norm(exact)


def test_nystrom_answers_by_a_symmetric_positive_matrix_at_every_scale():
    matrix, _ = spd(12, 1e3, dtype=np.float32)
    answers = lambda m: jax.vmap(lambda b: solve(Nystrom(5), m, b)[0])(jnp.eye(12))  # noqa: E731
    for scale in (1e-6, 1.0, 1e6):
        inverse = answers(np.float32(scale) * matrix)
        inverse = scale * np.asarray(inverse, np.float64)
        np.testing.assert_allclose(inverse, inverse.T, atol=1e-4 * np.abs(inverse).max())
        assert np.linalg.eigvalsh(inverse)[0] > 0
        plain = answers(matrix)
        np.testing.assert_allclose(inverse, plain, atol=1e-3 * np.abs(plain).max())


@pytest.mark.parametrize("rank", [7, 20])
def test_nystrom_at_full_rank_in_float32(rank):
    matrix, b = spd(7, 30.0, dtype=np.float32)
    found, _ = solve(Nystrom(rank), matrix, b)
    exact = np.linalg.solve(matrix, b)
    assert np.linalg.norm(found - exact) < 2e-3 * np.linalg.norm(exact)


# ---- all of them


def test_systems_that_are_not_symmetric(x64):
    rng = np.random.default_rng(7)
    matrix, b = np.eye(6) + 0.2 * rng.normal(size=(6, 6)), rng.normal(size=6)
    exact = np.linalg.solve(matrix, b)
    for solver in (Dense(), Neumann(400, 0.7)):
        assert not solver.symmetric
        np.testing.assert_allclose(solve(solver, matrix, b)[0], exact, rtol=1e-9)
    assert all(s.symmetric for s in (CG(), Neumann(), Nystrom()))
    assert not Identity().symmetric


@pytest.mark.parametrize("solver", ALL)
def test_zero_is_answered_by_zero(solver):
    for matrix in (spd(7, 10.0, dtype=np.float32)[0], np.zeros((7, 7), np.float32)):
        found, info = solve(solver, matrix, np.zeros(7, np.float32))
        assert np.array_equal(found, np.zeros(7))
        assert info.residual == 0
        assert not info.diverged


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_reported_and_does_not_pass_for_an_answer(solver, bad):
    matrix, b = spd(7, 10.0, dtype=np.float32)
    for which in ("matrix", "vector"):
        broken, vector = matrix.copy(), b.copy()
        if which == "matrix":
            broken[1, 1] = bad
        else:
            vector[1] = bad
        found, info = solve(solver, broken, vector)
        assert info.diverged
        if which == "vector" or not isinstance(solver, Identity):
            assert not np.all(np.isfinite(found))


@pytest.mark.parametrize("solver", ALL)
def test_neither_scale_nor_format_of_the_right_hand_side_matters(solver):
    matrix, b = spd(7, 10.0, dtype=np.float32)
    plain, info = solve(solver, matrix, b)
    for scale in (1e-25, 1e25):
        found, same = solve(solver, matrix, np.float32(scale) * b)
        np.testing.assert_allclose(found / np.float32(scale), plain, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(same.residual, info.residual, rtol=1e-2, atol=1e-5)
    low = jnp.asarray(b, jnp.bfloat16)
    mixed = {"a": low[:3], "b": jnp.asarray(b[3:])}
    wide = lambda x: jnp.concatenate([x["a"].astype(jnp.float32), x["b"]])  # noqa: E731

    def product(x):
        y = jnp.asarray(matrix) @ wide(x)
        return {"a": y[:3].astype(jnp.bfloat16), "b": y[3:]}

    found, _ = jax.jit(lambda x: solver.solve(product, x))(mixed)
    assert found["a"].dtype == jnp.bfloat16
    expected, _ = solve(solver, matrix, wide(mixed))
    assert np.linalg.norm(wide(found) - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("solver", "check"),
    [
        (CG(30, 4e-5), True),
        (CG(30, 4e-5), False),
        (Neumann(30), True),
        (Nystrom(3), True),
        (Dense(), True),
    ],
)
def test_within_shard_map(x64, solver, check):
    """Systems of different difficulty on two devices, and one that both hold a part of.

    CG's tolerance lies far from every residual on its way (1.5e-4 then 1.1e-5, and 1e-2 then
    1e-11), so that its count of products, compared here, is not a matter of rounding.
    """
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    matrices = np.stack([spd(7, 2.0)[0], spd(7, 100.0, 1)[0]])
    b = np.random.default_rng(2).normal(size=(2, 7))

    def own(matrix, b):
        x, info = solver.solve(lambda x: matrix[0] @ x, b[0])
        return x[None], jax.tree.map(lambda a: a[None], info)

    specs = dict(mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=check)
    found, info = jax.jit(jax.shard_map(own, **specs))(matrices, b)
    for i in range(2):
        alone, its = solve(solver, matrices[i], b[i])
        np.testing.assert_allclose(found[i], alone, rtol=1e-9)
        assert info.products[i] == its.products
        assert info.diverged[i] == its.diverged

    def shared(matrix, b):
        return solver.solve(lambda x: jax.lax.pmean(matrix[0] @ x, "d"), b)[0]

    specs = dict(mesh=mesh, in_specs=(P("d"), P()), out_specs=P(), check_vma=check)
    found = jax.jit(jax.shard_map(shared, **specs))(matrices, b[0])
    np.testing.assert_allclose(found, solve(solver, matrices.mean(0), b[0])[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CG(0), "steps must be an integer of at least 1"),
        (lambda: CG(tolerance=-1.0), "tolerance must be a finite Python number of at least 0"),
        (lambda: CG(damping=float("nan")), "damping must be a finite"),
        (lambda: check_number("CG", "damping", jnp.ones(())), "cannot hold traced arrays"),
        (lambda: check_count("CG", "steps", 2.5), "steps must be an integer"),
        (lambda: check_solver("Implicit", CG), "call it: CG"),
        (lambda: check_solver("Implicit", 3), "solver must be CG, Neumann"),
        (lambda: Neumann(-1), "terms must be an integer"),
        (lambda: Neumann(3, "best"), 'must be a number or "auto"'),
        (lambda: Nystrom(0), "rank must be an integer"),
        (lambda: Nystrom(2, seed=-1), "seed must be in"),
        (lambda: Nystrom(2, tail="none"), 'tail must be "captured" or "zero"'),
        (lambda: Nystrom(2, tail="zero"), "pass a positive one, such as 0.1"),
        (lambda: Identity(float("inf")), "scale must be a finite"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_bad_systems_are_refused():
    with pytest.raises(TypeError, match="real floating arrays"):
        CG().solve(lambda x: x, jnp.arange(3))
    with pytest.raises(TypeError, match="no arrays"):
        CG().solve(lambda x: x, {})
    with pytest.raises(ValueError, match="structure and shapes of its argument"):
        CG().solve(lambda x: x[None], jnp.ones(3))


def test_solvers_are_values():
    assert CG(3) == CG(3)
    assert hash(Neumann(3)) == hash(Neumann(3))
    assert dataclasses.replace(CG(3), steps=4) == CG(4)
    assert issubclass(CG, Solver)
    with pytest.raises(TypeError):
        Solver()
