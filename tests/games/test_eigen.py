"""Jacobians and spectra of fields, by numpy's dense eigenvalues of matrices that are known."""

import functools
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from references.games_dynamics import matched

import nestax as nx


def ordered(eigenvalues):
    """By descending modulus, then by real, then by imaginary part."""
    keys = (-eigenvalues.imag, -eigenvalues.real, -np.abs(eigenvalues))
    return eigenvalues[np.lexsort(keys)]


def linear(matrix, split=None):
    """The field v -> matrix v, of one array or of two players."""
    matrix = jnp.asarray(matrix)
    if split is None:
        return lambda v: matrix @ v

    def field(v):
        found = matrix @ jnp.concatenate([v["x"], v["y"]["w"].ravel()])
        return {"x": found[:split], "y": {"w": found[split:].reshape(v["y"]["w"].shape), "n": None}}

    return field


def non_normal(n, top, seed=0):
    """With the eigenvalues of `top` and others of modulus below 1, in no orthogonal basis."""
    rng = np.random.default_rng(seed)
    matrix = np.triu(rng.normal(size=(n, n)), 2) / n**0.5 + np.diag(rng.uniform(-1, 1, n))
    matrix[: len(top), : len(top)] = top
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return q @ matrix @ q.T


@functools.partial(jax.jit, static_argnames=("k", "which", "products"))
def leading(matrix, k, start=None, which="magnitude", products=60):
    """One program for matrices of one shape."""
    begin = jnp.zeros(len(matrix))
    return nx.games.leading_eigenvalues(
        lambda v: matrix @ v, begin, k, which=which, products=products, start=start
    )


def test_jacobians_of_pytrees_in_the_order_of_their_leaves(x64):
    """Dense and as products, of vectors and of pytrees; an integer leaf does not move."""
    a = np.random.default_rng(0).normal(size=(6, 6))
    values = {"y": {"w": jnp.ones((2, 2)), "n": 3}, "x": jnp.ones(2)}
    field = linear(a, 2)
    np.testing.assert_allclose(nx.games.jacobian(field, values), a)
    assert nx.games.player_slices(values) == {"x": slice(0, 2), "y": slice(2, 6)}
    operator = nx.games.jacobian_operator(field, values)
    assert operator.size == 6 and operator.players == nx.games.player_slices(values)
    v = np.random.default_rng(1).normal(size=6)
    tree = {"y": {"w": v[2:].reshape(2, 2), "n": None}, "x": v[:2]}
    for product, matrix in ((operator.product, a), (operator.transposed, a.T)):
        np.testing.assert_allclose(product(v), matrix @ v)
        found = product(tree)
        assert found["y"]["w"].shape == (2, 2)
        np.testing.assert_allclose(found["x"], (matrix @ v)[:2])
    blocks = nx.games.player_blocks(a, operator.players)
    np.testing.assert_allclose(blocks["y"]["x"], a[2:, :2])
    s, h = nx.games.potential_and_hamiltonian(a)
    np.testing.assert_allclose(s + h, a)
    assert (s == s.T).all() and (h == -h.T).all()


def test_the_whole_spectrum(x64):
    a = np.random.default_rng(0).normal(size=(6, 6))
    found = nx.games.spectrum(linear(a), jnp.ones(6))
    np.testing.assert_allclose(found, ordered(np.linalg.eigvals(a)), atol=1e-12)
    traced = jax.jit(lambda v: nx.games.spectrum(lambda u: jnp.asarray(a) @ u * 2, v))(jnp.ones(6))
    np.testing.assert_allclose(traced, 2 * found, atol=1e-12)
    real = nx.games.spectrum(linear(a), jnp.ones(6), which="smallest real")
    assert (np.diff(real.real) >= 0).all()


def test_leading_eigenvalues_of_matrices_far_from_normal(x64):
    """A complex pair, two real ones, and by other criteria; fewer products than components."""
    for top in ([[2.0, 3.0], [-1.0, 2.0]], [[-3.0, 5.0], [0.0, 2.0]]):
        a = non_normal(80, np.array(top))
        exact = ordered(np.linalg.eigvals(a))
        assert np.linalg.norm(a @ a.T - a.T @ a) > 5
        found = leading(a, 2)
        assert found.converged.all() and found.products < 60
        np.testing.assert_allclose(found.eigenvalues, exact[:2], rtol=1e-6)
    for which, value in (("largest real", 2), ("smallest real", -3)):
        found = leading(a, 1, which=which)
        assert found.converged.all()
        np.testing.assert_allclose(found.eigenvalues, [value], rtol=1e-6)
    a = non_normal(80, np.array([[0.1, 4.0, 0.0], [-4.0, 0.1, 0.0], [0.0, 0.0, 9.0]]))
    found = leading(a, 1, which="imaginary")
    np.testing.assert_allclose(found.eigenvalues, [0.1 + 4j], rtol=1e-6)


def test_leading_eigenvalues_of_pytrees(x64):
    a = non_normal(30, np.array([[2.0, 3.0], [-1.0, 2.0]]))
    values = {"x": jnp.ones(10), "y": {"w": jnp.ones((5, 4)), "n": None}}
    found = nx.games.spectrum(linear(a, 10), values, 2, key=jax.random.key(1))
    np.testing.assert_allclose(found, ordered(np.linalg.eigvals(a))[:2], rtol=1e-6)


def test_nothing_is_of_the_size_of_the_matrix():
    """100,000 components, of which halves rotate: 61 vectors at most, and some for the step."""
    half = jnp.ones(50_000)
    field = nx.games.joint_field((lambda x, y: x @ y, lambda x, y: -x @ y))
    compute = lambda v: nx.games.leading_eigenvalues(field, v)  # noqa: E731
    program = jax.jit(compute).trace((half, half))

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
        for inner in jex.subjaxprs(jaxpr):
            yield from sizes(inner)

    found = program.lower().compile()((half, half))
    assert found.converged.all() and found.products <= 60
    np.testing.assert_allclose(found.eigenvalues, [1j], atol=1e-4)
    assert max(sizes(program.jaxpr.jaxpr)) <= 61 * 100_000


def test_what_has_not_converged_is_nan_with_a_warning(x64):
    a = np.random.default_rng(0).normal(size=(100, 100))  # moduli fill a disk
    with pytest.warns(
        UserWarning, match="1 of 1 leading eigenvalues .* in 10 products and are NaN"
    ):
        found = nx.games.spectrum(linear(a), jnp.ones(100), 1, products=10)
    assert np.isnan(found).all()
    approximate = nx.games.leading_eigenvalues(linear(a), jnp.ones(100), products=10)
    assert not approximate.converged.any() and np.isfinite(approximate.eigenvalues).all()
    assert approximate.residuals[0] > 1e-2 and approximate.products == 10
    program = jax.jit(lambda v: nx.games.spectrum(linear(a), v, 1, products=10))
    assert np.isnan(program(jnp.ones(100))).all()  # without a warning


@pytest.mark.parametrize("n", [1, 3, 70])
def test_multiples_of_the_identity(x64, n):
    """Each Krylov space ends after one product; all copies of the eigenvalue are found."""
    for c in (0.0, -2.0):
        found = leading(c * np.eye(n), min(n, 3))
        assert found.converged.all()
        np.testing.assert_allclose(found.eigenvalues, c, atol=1e-14)


def test_repeated_eigenvalues_and_invariant_subspaces(x64):
    """Five copies of the pair 3 ± 4i, from a drawn start and from a subspace without them."""
    a = np.diag(np.linspace(-1, 1, 70))
    a[:10, :10] = np.kron(np.eye(5), [[3.0, 4.0], [-4.0, 3.0]])
    start = np.zeros(70)
    start[[20, 40, 60]] = 1
    for begin in (np.random.default_rng(0).normal(size=70), start):
        found = leading(a, 4, begin)
        assert found.converged.all()
        assert matched(found.eigenvalues, np.array([3 + 4j, 3 - 4j] * 2)) < 1e-9
    defective = np.diag(np.full(70, 2.0)) + np.diag(np.ones(69), 1)
    defective[2:] /= 10
    found = leading(defective, 2)
    np.testing.assert_allclose(found.eigenvalues, [2, 2], atol=1e-4)  # exact to the root


def test_sizes_of_the_matrix_do_not_matter_in_32_bits():
    """Norms whose squares overflow or underflow; mixed dtypes are computed in 32 bits."""
    a = np.diag([3.0, -2.0, 1.0, 0.5]).astype(np.float32)
    for size in (1e-25, 1e25):
        found = leading(a * np.float32(size), 2).eigenvalues
        np.testing.assert_allclose(found / np.float32(size), [3, -2], rtol=1e-4)
    halves = {"x": jnp.ones(2, jnp.bfloat16), "y": jnp.ones(2)}
    field = lambda v: {"x": 2 * v["x"], "y": -v["y"]}  # noqa: E731
    found = nx.games.leading_eigenvalues(field, halves, 2)
    assert found.eigenvalues.dtype == jnp.complex64
    assert found.converged.all()
    np.testing.assert_allclose(found.eigenvalues, [2, 2], rtol=2**-7)  # half precision has 8 bits


def test_values_spread_over_devices(x64):
    a = non_normal(12, np.array([[2.0, 3.0], [-1.0, 2.0]]))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    values = {"x": jnp.ones(4), "y": {"w": jnp.ones((2, 4)), "n": None}}
    values = jax.device_put(values, NamedSharding(mesh, PartitionSpec("d")))
    exact = ordered(np.linalg.eigvals(a))
    found = nx.games.leading_eigenvalues(linear(a, 4), values, 2)
    assert found.converged.all()
    np.testing.assert_allclose(found.eigenvalues, exact[:2], rtol=1e-8)
    np.testing.assert_allclose(nx.games.spectrum(linear(a, 4), values), exact, rtol=1e-8)


def game(flow: Any) -> tuple:
    """min over x of y-dependent losses whose inner w answers x: w*(x) = x / 2."""
    w = nx.Level(
        "w", lambda v, batch: ((v["w"] - v["x"]) ** 2).sum() / 2 + (v["w"] ** 2).sum() / 2,
        optax.sgd(0.5), start=lambda v, t, k: jnp.zeros(2),
    )  # fmt: skip
    x = nx.Level(
        "x", lambda v, batch: (v["w"] ** 2).sum() + (v["x"] ** 2).sum() * 0.1 + v["x"] @ v["y"],
        optax.sgd(0.1), every=3, flow=flow,
    )  # fmt: skip
    y = nx.Level("y", lambda v, batch: -v["x"] @ v["y"], optax.sgd(0.1), every=3)
    nest = nx.Nest([w, (x, y)])
    return nest, nest.init({"x": jnp.ones(2), "y": jnp.ones(2)}, jax.random.key(0))


@pytest.mark.parametrize("flow", [nx.Unroll(), nx.Implicit(nx.CG(5))])
def test_fields_of_nests_through_inner_levels(x64, flow):
    """With a step of 1/2 on curvature 2 the inner level arrives at once: d²/dx² (x/2)² = 1/2."""
    nest, state = game(flow)
    field = nx.games.joint_field(nest, state)
    values = {name: state.values[name] for name in ("x", "y")}

    def of_players(v):
        return {name: field({**state.values, **v})[name] for name in ("x", "y")}

    eye, zero = np.eye(2), np.zeros((2, 2))
    expected = np.block([[0.7 * eye, eye], [-eye, zero]])
    np.testing.assert_allclose(nx.games.jacobian(of_players, values), expected, atol=1e-10)
    operator = nx.games.jacobian_operator(of_players, values)
    v = np.arange(4.0)
    np.testing.assert_allclose(operator.product(v), expected @ v, atol=1e-10)
    np.testing.assert_allclose(operator.transposed(v), expected.T @ v, atol=1e-10)
    found = nx.games.spectrum(of_players, values, 4)
    assert matched(np.asarray(found), np.linalg.eigvals(expected)) < 1e-6  # defective pairs


def test_flows_with_a_derivative_of_their_own_are_refused():
    nest, state = game(nx.FiniteDifference())
    field = nx.games.joint_field(nest, state)
    field(state.values)
    for call in (nx.games.jacobian, nx.games.jacobian_operator, nx.games.spectrum):
        with pytest.raises(ValueError, match="level 'x' has the flow FiniteDifference"):
            call(lambda v: {**v, **field(v)}, dict(state.values))


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scales_that_lapack_does_not_undo(scale):
    """In 32 bits; eigenvalues are 1 and 3 times the scale."""
    a = jnp.array([[2.0, 1.0], [1.0, 2.0]]) * scale
    found = nx.games.spectrum(lambda v: a @ v, jnp.ones(2))
    np.testing.assert_allclose(found, [3 * scale, scale], rtol=1e-5)
    radius = nx.games.spectral_radius(a, nx.games.GradientDescent(1.0))
    np.testing.assert_allclose(radius, max(1, 3 * scale), rtol=1e-5)


def test_half_precision_has_eigenvalues():
    """LAPACK has none for 16 bits."""
    a = jnp.array([[1, 2], [-2, 1]], jnp.bfloat16)
    found = nx.games.spectrum(lambda v: a @ v, jnp.ones(2, jnp.bfloat16))
    np.testing.assert_allclose(found, [1 + 2j, 1 - 2j], rtol=1e-6)
    radius = nx.games.spectral_radius(a, nx.games.GradientDescent(0.5))
    np.testing.assert_allclose(radius, 1.25**0.5, rtol=1e-6)


def test_kinds_of_eigenvalues(x64):
    given = jnp.array([2.0, 1j, -1j, 1 + 1j, 1e-12, -1 + 1e-9j, jnp.nan, jnp.inf])
    found = nx.games.kinds(given)
    assert found.cooperative.tolist() == [True, False, False, False, False, True, False, False]
    assert found.adversarial.tolist() == [False, True, True, False, False, False, False, False]
    assert found.mixed.tolist() == [False, False, False, True, False, False, False, False]
    assert found.zero.tolist() == [False, False, False, False, True, False, False, False]
    assert not nx.games.kinds(given, 0.0).cooperative[5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nx.games.spectrum(lambda v: (v, v), jnp.ones(2)), "the field returns another str"),
        (lambda: nx.games.jacobian(lambda v: v[:1], jnp.ones(2)), "another shape or dtype"),
        (lambda: nx.games.spectrum(3, jnp.ones(2)), "the field is a function of values.*got 3"),
        (lambda: nx.games.spectrum(lambda v: v, 3), "no real floating-point number to move"),
        (
            lambda: nx.games.spectrum(lambda v: v, {"x": jnp.array([1, jnp.nan])}),
            r"jacobian: the values are not finite at \['x'\]",
        ),
        (lambda: nx.games.spectrum(jnp.sqrt, jnp.zeros(2)), "derivatives are not finite"),
        (lambda: nx.games.spectrum(jnp.sqrt, jnp.zeros(2), 1), "a product .* is not finite"),
        (
            lambda: nx.games.spectrum(lambda v: v, jnp.ones(2), 3),
            "is a whole number from 1 to 2, got 3",
        ),
        (lambda: nx.games.spectrum(lambda v: v, jnp.ones(2), 0), "from 1 to 2"),
        (lambda: nx.games.spectrum(lambda v: v, jnp.ones(9), 5, products=4), "as many products"),
        (lambda: nx.games.spectrum(lambda v: v, jnp.ones(2), which="top"), "which is one of 'mag"),
        (lambda: nx.games.spectrum(lambda v: v, jnp.ones(2), 1, tolerance=0.0), "between 0 and 1"),
        (
            lambda: nx.games.leading_eigenvalues(lambda v: v, jnp.ones(2), start=jnp.zeros(2)),
            "start is zero",
        ),
        (
            lambda: nx.games.leading_eigenvalues(lambda v: v, jnp.ones(2), start=jnp.ones(3)),
            r"an array of shape \[2\] or a pytree like the values; got \(3,\)",
        ),
        (
            lambda: nx.games.jacobian_operator(lambda v: v, jnp.ones(2)).product(jnp.ones(3)),
            r"an array of shape \[2\]",
        ),
        (lambda: nx.games.kinds(jnp.ones((2, 2))), "the eigenvalues are a vector"),
        (lambda: nx.games.player_blocks(np.eye(2), {"x": 1}), "players is a dict player -> slice"),
        (lambda: nx.games.player_blocks(np.eye(2), {"x": slice(0, 1)}), "exactly one player"),
        (lambda: nx.games.potential_and_hamiltonian(np.ones(3)), r"has the shape \(n, n\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_eigenvalues_that_rounding_moves_are_not_called_converged():
    """In 32 bits that of this matrix, 1, is found as 1.1 + 0.5i, with a residual of 0."""
    upper = np.diag(np.linspace(0.5, 1, 8))
    upper[0, 7] = 100
    matrix = np.block([[upper, 100 * np.eye(8)], [np.zeros((8, 8)), 0.9 * np.eye(8)]])
    field = lambda v: jnp.asarray(matrix, jnp.float32) @ v  # noqa: E731
    with pytest.warns(UserWarning, match="far from normal"):
        assert np.isnan(nx.games.spectrum(field, jnp.ones(16, jnp.float32), leading=1)).all()
