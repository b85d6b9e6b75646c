"""Functions of JAX in PyTorch's autograd, against torch's own finite differences and formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

torch = pytest.importorskip("torch")

to_jax, to_torch, torch_function = nx.torch.to_jax, nx.torch.to_torch, nx.torch.torch_function
DTYPES = ("float32", "float16", "bfloat16", "int32", "int16", "int8", "uint8", "bool", "complex64")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def drawn(*shape, dtype=torch.float64, grad=True):
    return torch.randn(*shape, dtype=dtype, requires_grad=grad)


def close(a, b, rtol=1e-12):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-14)


def counted(function):
    """The function, and a list that grows each time JAX traces it."""
    traces = []

    def noted(*args, **kwargs):
        traces.append(1)
        return function(*args, **kwargs)

    return noted, traces


class TestTrees:
    @pytest.mark.parametrize("name", DTYPES)
    def test_there_and_back_keeps_numbers_and_dtypes(self, name):
        given = torch.tensor([0, 1, 3]).to(getattr(torch, name))
        array = to_jax(given)
        assert isinstance(array, jax.Array) and str(array.dtype) == name
        np.testing.assert_array_equal(np.asarray(array, complex), given.to(torch.complex64).numpy())
        back = to_torch(array)
        assert back.dtype == given.dtype and torch.equal(back, given)

    @pytest.mark.usefixtures("x64")
    @pytest.mark.parametrize("name", ["float64", "int64", "complex128"])
    def test_64_bits_stay_where_jax_has_them(self, name):
        given = torch.tensor([1 << 20, 1 + (1 << 40)]).to(getattr(torch, name))
        assert str(to_jax(given).dtype) == name
        assert torch.equal(to_torch(to_jax(given)), given)

    def test_64_bits_are_never_cut_down_in_silence(self):
        labels = to_jax(torch.tensor([0, -(2**31), 2**31 - 1]))
        assert labels.dtype == jnp.int32 and labels.tolist() == [0, -(2**31), 2**31 - 1]
        assert to_jax(torch.zeros(0, dtype=torch.int64)).shape == (0,)
        with pytest.raises(ValueError, match=r"tree\['n'\] holds int64 numbers beyond"):
            to_jax({"n": torch.tensor([2**31])})
        for name in ("float64", "complex128", "uint64"):
            with pytest.raises(ValueError, match=rf"tree\[0\] has dtype {name}, and JAX's 64-bit"):
                to_jax([torch.ones(2).to(getattr(torch, name))])

    def test_tensors_of_every_shape_and_stride(self):
        matrix = torch.arange(12.0).reshape(3, 4)
        z = torch.complex(matrix, matrix + 1)
        tensors = {
            "scalar": torch.tensor(2.0),
            "empty": torch.zeros(0, 3),
            "transposed": matrix.T,
            "strided": matrix[:, ::2],
            "flipped": matrix.flip(1),
            "expanded": torch.ones(1, 2).expand(5, 2),
            "unaligned": torch.arange(10.0)[1:],
            "conjugate": z.conj(),
            "negative": z.conj().imag,
            "parameter": torch.nn.Parameter(matrix),
            "computed": (torch.nn.Parameter(matrix) * 2).sum(),
        }
        for copy in (True, False):
            for name, array in to_jax(tensors, copy=copy).items():
                expected = tensors[name].detach().resolve_conj().resolve_neg().numpy()
                np.testing.assert_array_equal(np.asarray(array), expected, err_msg=name)
        arrays = {"scalar": jnp.float32(2), "empty": jnp.zeros((0, 3)), "t": jnp.ones((3, 2)).T}
        for name, tensor in to_torch(arrays).items():
            assert tensor.shape == arrays[name].shape
            assert not tensor.requires_grad

    def test_memory_is_shared_only_when_asked_for(self):
        tensor = torch.zeros(16)
        copied, shared = to_jax(tensor), to_jax(tensor, copy=False)
        tensor += 1
        assert copied.tolist() == [0] * 16 and shared.tolist() == [1] * 16
        array = jnp.zeros(16)
        copied, shared = to_torch(array), to_torch(array, copy=False)
        copied += 1
        assert array.tolist() == [0] * 16
        shared += 1
        assert array.tolist() == [1] * 16  # as documented: it must not be written to

    def test_modules_go_through_their_dicts(self):
        first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        tree = to_jax({"net": first.state_dict(), "steps": 3, "none": None, "name": "a"})
        assert tree["steps"] == 3 and tree["none"] is None and tree["name"] == "a"
        second.load_state_dict(to_torch(tree)["net"])
        assert torch.equal(first.weight, second.weight)
        assert second.weight.data_ptr() != first.weight.data_ptr()
        with pytest.raises(ValueError, match=r"tree\['net'\] is a torch module; give its tensors"):
            to_jax({"net": first})

    @pytest.mark.parametrize(
        "tensor, words",
        [
            (lambda: torch.eye(3).to_sparse(), "is a tensor sparse_coo, which JAX cannot hold"),
            (lambda: torch.ones(3, device="meta"), "without data"),
        ],
    )
    def test_tensors_that_jax_cannot_hold(self, tensor, words):
        with pytest.raises(ValueError, match=words):
            to_jax(tensor())

    def test_arrays_that_torch_cannot_hold(self):
        with pytest.raises(ValueError, match=r"tree\['k'\] holds key.*key_data"):
            to_torch({"k": jax.random.key(0)})
        with pytest.raises(ValueError, match="is traced by jit"):
            jax.jit(to_torch)(jnp.ones(2))
        with pytest.raises(ValueError, match=r"of dtype int4.*cannot be handed to torch"):
            to_torch(jnp.ones(2, jnp.int4))
        mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        spread = jax.NamedSharding(mesh, jax.P("x"))
        with pytest.raises(ValueError, match=r"spread over 2 devices; gather it"):
            to_torch(jax.device_put(jnp.ones(2), spread))


def mixed(tree, number, *, power=2):
    """Trees, an integer, a constant of the program; a float and an integer output."""
    return {
        "y": jnp.sin(tree["a"]) * tree["b"] ** power,
        "count": number + 1,
        "sum": [jnp.sum(tree["a"] * number)],
    }


@pytest.mark.usefixtures("x64")
class TestDerivatives:
    def test_first_and_second_against_finite_differences(self):
        f = torch_function(mixed)
        number = torch.tensor(3)

        def of_tensors(a, b):
            out = f({"a": a, "b": b}, number, power=3)
            assert out["count"] == 4 and out["count"].dtype == torch.int64
            assert not out["count"].requires_grad
            return out["y"], out["sum"][0]

        given = drawn(3), drawn(3)
        assert torch.autograd.gradcheck(of_tensors, given)
        assert torch.autograd.gradgradcheck(of_tensors, given)
        one = drawn(3), drawn(3, grad=False)  # only one of them is differentiated
        assert torch.autograd.gradcheck(of_tensors, one)
        assert torch.autograd.gradgradcheck(of_tensors, one)

    def test_complex_numbers_in_torch_s_convention(self):
        z = drawn(2, dtype=torch.complex128)
        f = torch_function(lambda z: z * z * jnp.conj(z) + jnp.exp(z))
        assert torch.autograd.gradcheck(f, z)
        assert torch.autograd.gradgradcheck(f, z)
        loss = torch_function(lambda z: jnp.sum(jnp.abs(z**2 + 1j) ** 2))
        own = torch.autograd.grad(((z**2 + 1j).abs() ** 2).sum(), z)[0]
        close(torch.autograd.grad(loss(z), z)[0], own)

    def test_a_scalar_loss_as_torch_computes_it(self):
        x, y, w = drawn(5, 3, grad=False), drawn(5, grad=False), drawn(3)
        loss = torch_function(lambda w, x, y: jnp.mean((x @ w - y) ** 2))
        (3 * loss(w, x, y)).backward()
        (-loss(w, x, y)).backward()  # gradients add up
        own = torch.autograd.grad(2 * ((x @ w - y) ** 2).mean(), w)[0]
        close(w.grad, own)
        both = torch_function(lambda w, x: (jnp.sum(w), x @ w))(w, x)  # one output is not used
        close(torch.autograd.grad(both[1].sum(), w, retain_graph=True)[0], x.sum(0))
        close(torch.autograd.grad(both[1].sum(), w)[0], x.sum(0))

    def test_transforms_of_torch(self):
        x = drawn(3, grad=False)
        f = torch_function(lambda x: jnp.sum(jnp.sin(x)))
        close(torch.func.grad(f)(x), x.cos())
        close(torch.func.vmap(f)(x[:, None]), x.sin())
        close(torch.func.vmap(torch.func.grad(f))(x[None])[0], x.cos())
        close(torch.func.jacrev(torch.func.grad(f))(x), -x.sin().diag())
        pair = torch_function(lambda a, b: {"sum": a + b, "product": a * b})
        out = torch.func.vmap(pair, in_dims=(0, None))(x, x)
        close(out["product"], x[:, None] * x)

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
    def test_transforms_that_are_refused(self):
        x, f = drawn(3), torch_function(jnp.sin)
        with pytest.raises(NotImplementedError, match=r"torch_function\(sin\) has no forward mode"):
            torch.func.jvp(f, (x.detach(),), (x.detach(),))
        with pytest.raises(ValueError, match=r"is_grads_batched=True.*torch.func.jacrev"):
            torch.autograd.grad(f(x), x, torch.eye(3, dtype=x.dtype), is_grads_batched=True)

    def test_jax_s_limits_are_told_clearly(self):
        x = drawn(3)

        def doubled(x):
            return jax.lax.while_loop(lambda x: jnp.sum(x**2) < 100, lambda x: x * x + 2, x)

        loop = torch_function(doubled)
        words = r"torch_function\(doubled\): JAX has no first derivative of it in reverse mode"
        with pytest.raises(ValueError, match=words):
            loop(x).sum().backward()
        with pytest.raises(ValueError, match=words):
            torch.func.grad(lambda x: loop(x).sum())(x)
        with torch.no_grad():
            assert (loop(x) ** 2).sum() >= 100

        @jax.custom_vjp
        def cube(x):
            return x**3

        def backward(x, cotangent):
            start = (0, cotangent * x)
            return (jax.lax.while_loop(lambda s: s[0] < 1, lambda s: (1, 3 * x * s[1]), start)[1],)

        cube.defvjp(lambda x: (cube(x), x), backward)
        loss = torch_function(lambda x: jnp.sum(cube(x)))
        (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
        close(gradient, 3 * x**2)
        with pytest.raises(ValueError, match=r"no second derivative.*leave create_graph=True out"):
            gradient.sum().backward()

    def test_errors_of_the_function_are_its_own(self):
        x = drawn(3)
        with pytest.raises(TypeError, match="dot_general"):
            torch_function(lambda x: x @ jnp.ones(4))(x)


class TestCalls:
    def test_compiles_once(self):
        f, traces = counted(lambda w, *, power: jnp.sum(w**power))
        loss, w = torch_function(f), torch.ones(3, requires_grad=True)
        for _ in range(3):
            loss(w, power=2).backward()
        once = len(traces)
        for _ in range(3):
            loss(w * 2, power=2).backward()
        assert len(traces) == once
        loss(w, power=3).backward()  # another constant, another program
        assert len(traces) > once
        floats, traces = counted(lambda w, rate: w * rate)
        scaled = torch_function(floats)
        assert [scaled(w, 0.5 * n)[0].item() for n in range(3)] == [0, 0.5, 1]
        assert len(traces) <= 2  # a call, and what differentiates it

    def test_no_backward_is_computed_where_none_is_needed(self):
        @jax.custom_vjp
        def f(x):
            return jnp.sum(x)

        asked = []
        f.defvjp(lambda x: asked.append(1) or (jnp.sum(x), x), lambda x, g: (g * jnp.ones_like(x),))
        loss, w = torch_function(f), torch.ones(3, requires_grad=True)
        with torch.no_grad():
            assert not loss(w).requires_grad
        assert not loss(w.detach()).requires_grad
        assert not asked
        assert loss(w).requires_grad and asked
        counts = torch_function(lambda x, n: x * n)(torch.ones(2), torch.tensor(2))
        assert not counts.requires_grad

    def test_outputs_have_memory_of_their_own(self):
        constant, x = jnp.zeros(3), torch.zeros(3)
        for given in (x, x.clone().requires_grad_()):
            f = torch_function(lambda x: (x, x, constant, constant, x + 0))
            outputs = f(given)
            with torch.no_grad():
                for number, one in enumerate(outputs, 1):
                    one += number
            assert [one[0].item() for one in outputs] == [1, 2, 3, 4, 5]
            assert not given.any() and not constant.any()

    def test_writes_between_forward_and_backward(self):
        w = torch.ones(3, requires_grad=True)
        exp = torch_function(jnp.exp)
        y = exp(w)
        with torch.no_grad():
            y.zero_()  # its own memory: the residuals stay right
        y.sum().backward()
        close(w.grad, torch.ones(3).exp(), rtol=1e-6)
        y = exp(w)
        with torch.no_grad():
            w *= 2
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    def test_arguments_that_are_no_tensors(self):
        f = torch_function(lambda x, how, more: x * more if how == "times" else x + more)
        x = torch.ones(2)
        assert f(x, "times", np.float32(3)).tolist() == [3, 3]
        assert f(x, "plus", jnp.ones(2)).tolist() == [2, 2]
        assert f(x, "plus", True).tolist() == f(x, "plus", 1).tolist() == [2, 2]
        with pytest.raises(TypeError, match=r"an argument of type set is no array.*hashable"):
            f(x, {1}, 1.0)
        with pytest.raises(ValueError, match="an argument is a torch module"):
            f(x, torch.nn.Linear(2, 2), 1.0)
        with pytest.raises(ValueError, match=r"torch_function\(sin\): a tensor has dtype float64"):
            torch_function(jnp.sin)(torch.ones(2, dtype=torch.float64))
        with pytest.raises(TypeError, match="give a function of JAX, got 3"):
            torch_function(3)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
    def test_compile_leaves_it_alone(self):
        double = torch_function(lambda w: jnp.sum(w * w))
        compiled = torch.compile(lambda w: 3 * double(w + 1), backend="eager")
        w = torch.ones(2, requires_grad=True)
        compiled(w).backward()
        assert w.grad.tolist() == [12, 12]

    def test_autocast_leaves_it_alone(self):
        w = torch.ones(2, 2, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = torch_function(lambda w: w @ w)(w)
            assert out.dtype == torch.float32 and (w @ w).dtype == torch.bfloat16
        out.sum().backward()
        assert w.grad.dtype == torch.float32
        half = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
        torch_function(lambda w: jnp.sum(w, dtype=jnp.float32))(half).backward()
        assert half.grad.dtype == torch.bfloat16


@pytest.mark.usefixtures("x64")
class TestNestax:
    """Ridge regression: weights and hypergradients have closed forms, here computed by torch."""

    def problem(self):
        x, xv, y, yv = drawn(6, 2, grad=False), drawn(6, 2, grad=False), drawn(6), drawn(6)
        return x, xv, y.detach(), yv.detach(), drawn(2)

    def solved(self, x, y, decay):
        return torch.linalg.solve(x.T @ x + decay.exp().diag(), x.T @ y)

    def inner(self, data):
        x, _, y, _ = to_jax(data)
        return lambda decay, w: jnp.sum((x @ w - y) ** 2) / 2 + jnp.sum(jnp.exp(decay) * w**2) / 2

    def test_hypergradient(self):
        *data, decay = self.problem()
        x, xv, y, yv = data
        w = self.solved(x, y, decay)
        expected = torch.autograd.grad(((xv @ w - yv) ** 2).sum() / 2, decay)[0]
        _, xj, _, yj = to_jax(data)
        outer = lambda decay, w: jnp.sum((xj @ w - yj) ** 2) / 2  # noqa: E731
        f = torch_function(nx.hypergradient(outer, self.inner(data), nx.Dense()))
        close(f(decay.detach(), w.detach()), expected, rtol=1e-10)

    def test_best_response_twice_differentiated(self):
        *data, decay = self.problem()
        x, xv, y, yv = data
        fit = nx.best_response(self.inner(data), optax.sgd(0.05), 300, nx.Implicit(nx.CG(2)))
        f = torch_function(lambda decay: fit(decay, jnp.zeros(2)))

        def outer(w):
            return ((xv @ w - yv) ** 2).sum()

        def derivatives(loss):
            (first,) = torch.autograd.grad(loss, decay, create_graph=True)
            return first, torch.autograd.grad((first**2).sum(), decay)[0]

        ours, own = derivatives(outer(f(decay))), derivatives(outer(self.solved(x, y, decay)))
        for a, b in zip(ours, own, strict=True):
            close(a, b, rtol=1e-6)

    def test_the_gradient_of_a_nest(self):
        *data, decay = self.problem()
        x, xv, y, yv = data
        _, xj, _, yj = to_jax(data)
        inner = self.inner(data)
        w = nx.Level("w", lambda v, batch: inner(v["decay"], v["w"]), optax.sgd(0.05))
        tuned = nx.Level(
            "decay",
            lambda v, batch: jnp.sum((xj @ v["w"] - yj) ** 2),
            optax.sgd(0.1),
            every=2,
            flow=nx.Unroll(),
        )
        nest = nx.Nest([w, tuned])
        state = nest.init({"w": jnp.zeros(2), "decay": to_jax(decay)}, jax.random.key(0))

        @torch_function
        def gradient(decay):
            values = {**state.values, "decay": decay}
            return nest.gradient(state.replace(values=values), "decay")

        steps = torch.zeros(2, dtype=torch.float64)
        for _ in range(2):
            steps = steps - 0.05 * (x.T @ (x @ steps - y) + decay.exp() * steps)
        own = torch.autograd.grad(((xv @ steps - yv) ** 2).sum(), decay)[0]
        close(gradient(decay), own)

    def test_a_memory_layer_among_torch_s_layers(self):
        layer = nx.memory.DeltaMemory(4, heads=2, chunk=2, key=jax.random.key(0))
        head = torch.nn.Linear(4, 1, dtype=torch.float64)
        weights, x = to_torch(layer), drawn(3, 4)
        for one in jax.tree.leaves(weights):
            one.requires_grad_()
        memory = torch_function(lambda layer, x: layer(x)[0])
        head(memory(weights, x)).sum().backward()

        def whole(layer, x):
            weight, bias = to_jax((head.weight, head.bias))
            return jnp.sum(layer(x)[0] @ weight.T + bias[None])

        expected = jax.jit(jax.grad(whole, (0, 1)))(layer, to_jax(x))
        for a, b in zip(jax.tree.leaves((weights, x)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a.grad.numpy(), np.asarray(b), rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_numpy_arrays_may_be_written_to_before_the_backward_pass():
    x, factor = drawn(3), np.ones(3)
    loss = torch_function(lambda x, factor: jnp.sin(x) * factor)(x, factor)
    factor *= 100
    (first,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    close(first, x.cos())


def test_a_scaled_loss_keeps_gradients_of_16_bits():
    x = torch.tensor([1e-3], dtype=torch.float16, requires_grad=True)
    loss = torch_function(lambda x: jnp.sum(x * jnp.float16(1e-4)) * jnp.float16(1e-4))(x)
    (loss * 32768).backward()
    assert abs(x.grad.item() - 3.2768e-4) < 1e-6
