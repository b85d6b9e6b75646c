"""Modules of PyTorch as functions of JAX, against torch's own values and derivatives in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

torch = pytest.importorskip("torch")

nn, F = torch.nn, torch.nn.functional
jax_function, to_jax = nx.torch.jax_function, nx.torch.to_jax


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def parameters(module):
    return {name: value.detach() for name, value in module.named_parameters()}


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def compare(function, *given, second=True):
    """Value, gradient and the gradient of its squared norm, of sum(sin(outputs))."""
    of_torch = function
    if isinstance(function, nn.Module):
        of_torch = lambda tree, *args: torch.func.functional_call(function, tree, args)  # noqa: E731
    leaves, treedef = jax.tree.flatten(given)
    moving = [index for index, leaf in enumerate(leaves) if leaf.is_floating_point()]

    def put(values):
        full = list(leaves)
        for index, value in zip(moving, values, strict=True):
            full[index] = value
        return treedef.unflatten(full)

    values = [leaves[index].clone().requires_grad_() for index in moving]
    math = torch.nn.attention.SDPBackend.MATH  # the fused kernels have no second derivative
    with torch.nn.attention.sdpa_kernel(math):
        loss = sum(torch.sin(one).sum() for one in jax.tree.leaves(of_torch(*put(values))))
    first = torch.autograd.grad(loss, values, create_graph=second)
    own = [loss, *first]
    if second:
        squares = sum((one**2).sum() for one in first)
        own += torch.autograd.grad(squares, values, allow_unused=True, materialize_grads=True)

    f, arrays = jax_function(function), to_jax(leaves)

    def ours(values):
        full = list(arrays)
        for index, value in zip(moving, values, strict=True):
            full[index] = value
        return sum(jnp.sum(jnp.sin(one)) for one in jax.tree.leaves(f(*treedef.unflatten(full))))

    def everything(values):
        loss, first = jax.value_and_grad(ours)(values)
        if not second:
            return loss, first
        squares = lambda values: sum(jnp.sum(one**2) for one in jax.grad(ours)(values))  # noqa: E731
        return loss, first, jax.grad(squares)(values)

    found = jax.tree.leaves(jax.jit(everything)([arrays[index] for index in moving]))
    for a, b in zip(found, own, strict=True):
        scale = max(1, b.abs().max().item())
        np.testing.assert_allclose(np.asarray(a), b.detach().numpy(), rtol=0, atol=1e-12 * scale)


def networks():
    mlp = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.LayerNorm(4))
    labels = torch.tensor([0, 1, -100, 3])
    convolutional = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding=2), nn.GroupNorm(2, 4), nn.SiLU(),
        nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    attention = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True, dropout=0.0)
    words = nn.Sequential(nn.Embedding(7, 3, padding_idx=1), nn.LSTM(3, 2))

    def classified(tree, x):
        logits = torch.func.functional_call(mlp, tree, (x,))
        return F.cross_entropy(logits, labels, label_smoothing=0.1)

    def read(tree, index):
        return torch.func.functional_call(words, tree, (index,))[0]

    return {
        "mlp": (mlp, classified, (drawn(4, 3),)),
        "convolutional": (convolutional.eval(), None, (drawn(1, 2, 6, 6),)),
        "attention": (attention, None, (drawn(1, 3, 4),)),
        "words": (words, read, (torch.tensor([[1, 2], [3, 1]]),)),
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["mlp", "convolutional", "attention", "words"])
def test_networks(name):
    module, function, given = networks()[name]
    compare(function or module.double(), parameters(module.double()), *given)


OPERATIONS = {
    "activations": lambda x: [
        getattr(F, name)(x)
        for name in ("relu", "relu6", "gelu", "silu", "elu", "selu", "leaky_relu", "softplus",
                     "hardtanh", "mish", "tanh", "logsigmoid", "softsign")
    ],
    "reductions": lambda x: [
        x.norm(), x.norm(dim=1), torch.linalg.vector_norm(x, 3), x.std(0), x.var(), x.max(1)[0],
        x.min(0, keepdim=True)[0], x.amax(1), x.max(), x.logsumexp(1), x.cumsum(0), x.mean((0, 1)),
        x.topk(2, 1)[0], x.sort(1)[0], torch.outer(x[0], x[:, 1]), x @ x[0], x.T @ x,
    ],
    "shapes": lambda x: [
        torch.stack([x, x * 2], 1), torch.cat([x, x], 1), x.chunk(2, 0)[1], x.roll(1, 0),
        x.flip(1), x[[0, 2], [1, 1]], x[1:, ::2], x[-1], F.pad(x, (1, 2)), x.repeat(2, 1),
        x.repeat_interleave(2, 0), x.unbind(1)[1], x[None].expand(2, -1, -1), x.tril(), x.triu(1),
    ],
    "elementwise": lambda x: [
        x.masked_fill(x > 0, 0.0), torch.where(x > 0, x, x**3), x.clamp(-0.5, 0.5), x.abs() ** 1.5,
        2**x, F.hardswish(x), x % 0.3, torch.fmod(x, 0.3), torch.atan2(x, x + 3),
        x.clone().mul_(2).add_(1),
        torch.maximum(x, x * 0 + 0.1), x * torch.arange(3, dtype=torch.float64), 1 / (x**2 + 1),
        x.detach() * x, (x.detach() // 0.3) * x.float(), torch.addcmul(x, x, x, value=0.5),
    ],
    "losses": lambda x: [
        F.mse_loss(x, x.flip(0)), F.smooth_l1_loss(x, x * 0), F.huber_loss(x, x * 0 + 0.3),
        F.binary_cross_entropy_with_logits(x, x.sigmoid()),
        F.nll_loss(x, torch.tensor([0, 1, 2, 0])),
        F.normalize(x), F.cosine_similarity(x, x.flip(0)),
        F.softmin(x, 1), F.glu(x, 0), F.rms_norm(x, (3,)),
    ],
}  # fmt: skip


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    compare(OPERATIONS[name], drawn(4, 3), second=name != "activations")


@pytest.mark.usefixtures("x64")
def test_derivatives_at_kinks_are_torch_s():
    # Those of clamp and hardswish differ between versions of torch.
    x = torch.tensor([[-1.0, 0.0, 1.0], [6.0, 0.0, 0.0], [3.0, -3.0, 0.5], [0.0, 0.0, 0.0]])

    def kinks(x):
        steps = [x.abs(), x.norm(dim=1), x.std(1), x.max(1)[0], x.amax(1)]
        return OPERATIONS["activations"](x) + steps

    compare(kinks, x.double(), second=False)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).double()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("flow", [nx.Unroll(), nx.Implicit(nx.CG(3)), nx.Implicit(nx.Dense())])
def test_a_nest_of_a_module_is_the_nest_of_its_twin(flow):
    """The hypergradient of a weight decay and a rate, and a run."""
    module, x = net(), jnp.linspace(-1, 1, 6)[:, None]
    y = jnp.sin(3 * x)
    start = to_jax(parameters(module))

    def twin(w, x):
        hidden = jnp.tanh(x @ w["0.weight"].T + w["0.bias"][None])
        return hidden @ w["2.weight"].T + w["2.bias"][None]

    def outcome(predict):
        def error(w, rows):
            return jnp.mean((predict(w, x[rows]) - y[rows]) ** 2)

        def train(v, batch):
            squares = sum(jnp.sum(one**2) for one in jax.tree.leaves(v["w"]))
            return error(v["w"], slice(0, 6, 2)) + jnp.exp(v["log"]["decay"]) * squares

        w = nx.Level("w", train, lambda v: optax.sgd(jnp.exp(v["log"]["rate"])))
        log = nx.Level(
            "log", lambda v, batch: error(v["w"], slice(1, 6, 2)), optax.sgd(0.1), every=5,
            flow=flow,
        )  # fmt: skip
        nest = nx.Nest([w, log])
        values = {"w": start, "log": {"decay": jnp.array(-2.0), "rate": jnp.array(-1.0)}}
        state = nest.init(values, jax.random.key(0))
        gradient = nest.gradient(state, "log")
        return gradient, nest.run(state, 2)[0].values

    for a, b in zip(
        jax.tree.leaves(outcome(jax_function(module))), jax.tree.leaves(outcome(twin)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_traced_once_for_each_shape_and_mapped():
    calls = []
    linear = nn.Linear(3, 2)
    f = jax_function(lambda tree, x: calls.append(1) or torch.func.functional_call(linear, tree, x))
    tree = to_jax(linear.state_dict())
    for _ in range(2):
        jax.jit(f)(tree, jnp.ones((4, 3)))
    assert len(calls) == 1
    mapped = jax.jit(jax.vmap(f, (None, 0)))(tree, jnp.ones((5, 4, 3)))
    assert mapped.shape == (5, 4, 2)
    assert len(calls) == 1
    expected = linear(torch.ones(4, 3)).detach().numpy()
    np.testing.assert_allclose(mapped[2], expected, rtol=1e-6)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def constant_part(x):
    with torch.no_grad():
        return x * 2


def hooked():
    module = nn.Linear(3, 3)
    module.register_full_backward_hook(lambda *given: None)
    return module


def written(write):
    def function(x):
        y = x * 1
        write(y)
        return y * x

    return function


class Cache(nn.Module):
    """Fills a cache at its first call."""

    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.arange(3, dtype=x.dtype)
        return x * self.kept


X = (jnp.ones((4, 3)),)
LINEAR = nn.Linear(3, 3)
REFUSED = {
    "closed over": (lambda x: LINEAR(x), X, r"closes over a tensor of shape \(3, 3\) that"),
    "missing": (LINEAR, ({"weight": jnp.ones((3, 3))}, *X), "closes over a tensor of shape"),
    "function": (Straight.apply, X, "uses a torch.autograd.Function"),
    "no_grad": (constant_part, X, "computes under torch.no_grad"),
    "dropout": (nn.Dropout(), ({}, *X), "draws random numbers"),
    "statistics": (nn.BatchNorm1d(3, affine=False), ({}, *X), "in place"),
    "in place": (lambda x: x.mul_(2), X, "changes an argument or a buffer in place"),
    "branch": (lambda x: x if x.sum() > 0 else -x, X, "a branch depends on numbers"),
    "into detached": (written(lambda y: y.detach()[0].mul_(2)), X, "writes by mul_ into"),
    "into data": (written(lambda y: y.data.clamp_(0, 1)), X, "writes by clamp_ into"),
    "set data": (written(lambda y: setattr(y, "data", y * 2)), X, "sets x.data"),
    "numpy": (lambda x: x * x.detach().numpy().sum(), X, "reads a tensor's numbers by numpy"),
    "hook": (written(lambda y: y.requires_grad and y.register_hook(lambda g: 3 * g)), X, "hook"),
    "pooled": (lambda x: F.max_pool2d(x[None, :2, :2], 2, return_indices=True), X, "indices of"),
    "cache": (Cache(), ({}, *X), r"sets Cache\.kept while it runs"),
    "number": (lambda x: x * x.sum().item(), X, "without a JAX form: _local_scalar_dense"),
    "unknown": (lambda x: torch.linalg.svdvals(x), X, "without a JAX form: _linalg_svd"),
    "64 bits": (lambda x: x.double().sum(), X, "computes in 64 bits"),
    "large": (lambda x: x * torch.arange(2**31, 2**31 + 3), X, "integer beyond those of int32"),
    "no tensor": (lambda x: 2.0, X, "must return tensors"),
    "key": (lambda x: x, (jax.random.key(0),), "torch has no dtype key"),
    "convolution": (
        lambda x: F.conv_transpose1d(x[None], x[:, None, :2]), X, "a transposed convolution",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_jax_would_compute_otherwise_is_refused(name):
    function, given, words = REFUSED[name]
    with pytest.raises(ValueError, match=r"^jax_function\(\w+|<lambda>\).*" + words):
        jax_function(function)(*given)


def test_modules_are_as_they_were_and_caches_that_are_full_are_constants():
    module, x = Cache(), torch.ones(3)
    with pytest.raises(ValueError, match="call the module once in torch before"):
        jax_function(module)({}, jnp.ones(3))
    assert module.kept is None
    np.testing.assert_array_equal(module(x), [0, 1, 2])
    np.testing.assert_array_equal(jax_function(module)({}, jnp.ones(3)), [0, 1, 2])


def test_calls_see_what_has_changed_since_the_last():
    factor, drop = torch.ones(3), nn.Dropout().eval()
    f = jax_function(lambda x: drop(x) * factor)
    np.testing.assert_array_equal(f(jnp.ones(3)), [1, 1, 1])
    factor.mul_(5)
    np.testing.assert_array_equal(f(jnp.ones(3)), [5, 5, 5])
    drop.train()
    with pytest.raises(ValueError, match="draws random numbers"):
        f(jnp.ones(3))
    norm = nn.BatchNorm1d(2, affine=False).eval()
    f, x = jax_function(norm), torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    f({}, to_jax(x))
    norm.train()(x)
    norm.eval().eps = 0.5
    np.testing.assert_allclose(f({}, to_jax(x)), norm(x), rtol=1e-6)
    divided = jax_function(lambda x, c: x / c)
    assert divided(jnp.ones(()), 0.0) == jnp.inf and divided(jnp.ones(()), -0.0) == -jnp.inf


NUMBERS = {  # each with the tensors that it is computed of
    "rest": (
        lambda x, y: [x % y, torch.fmod(x, y), torch.div(x, y, rounding_mode="floor")],
        [1.0, 5.0, -5.0, 1e8], [0.1, float("inf"), 3.0, 0.3],
    ),
    "whole": (
        lambda i: [torch.div(i, 1, rounding_mode="trunc"), (i % 2**20) ** 2.0, i.floor()],
        [16777217, -7],
    ),
    "bytes": (
        lambda i: [i.to(torch.uint8).cumsum(0), i.to(torch.uint8) < torch.tensor(300)], [200, 100],
    ),
    "compared": (
        lambda x: [x.float() == torch.tensor(0.1, dtype=torch.float64), x.long() == 0.5],
        [0.1, 0.0],
    ),
    "short": (
        lambda x: [x.half().norm(), x.half().var(), F.layer_norm(x.half(), (2,))], [3000.0, 1.0],
    ),
    "ignored": (lambda x: torch.addmm(x, x[:, None], x[None], beta=0), [float("nan"), 1.0]),
    "signs": (lambda x: x.sign(), [float("nan"), -0.5, 0.0]),
}  # fmt: skip


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_torch_s(name):
    function, *given = NUMBERS[name]
    tensors = [torch.tensor(one) for one in given]
    tensors = [one.double() if one.is_floating_point() else one for one in tensors]
    own = function(*tensors)
    found = jax_function(function)(*to_jax(tensors))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(own), strict=True):
        assert str(a.dtype) == str(b.dtype).removeprefix("torch.")
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-3 if b.dtype == torch.half else 1e-12)


@pytest.mark.usefixtures("x64")
def test_derivatives_at_zeros_are_torch_s():
    def singular(x):
        return [
            torch.special.xlogy(x, x.new_tensor([2.0, 3.0])), torch.atan2(x, x * 2),
            torch.linalg.vector_norm(x, 0.5), x ** (x * 3), x.data * x,
            F.binary_cross_entropy(x, x.new_tensor([0.0, 1.0])),
        ]  # fmt: skip

    compare(singular, torch.tensor([0.0, 1.0], dtype=torch.float64), second=False)


@pytest.mark.parametrize("index", [-1, 7])
def test_what_an_index_out_of_range_reads_is_nan(index):
    reads = [
        lambda x, i: F.embedding(i, x), lambda x, i: x.gather(0, i[None]),
        lambda x, i: x.index_select(0, i), lambda x, i: F.cross_entropy(x[:1], i),
        lambda x, i: x[i.abs() + 3],
    ]  # fmt: skip
    for read in reads:
        found = jax.jit(jax_function(read))(jnp.ones((3, 2)), jnp.array([index]))
        assert jnp.all(jnp.isnan(found))


def test_recurrent_networks_of_32_bits_have_no_kernel_of_their_own():
    module, x = nn.LSTM(3, 2), torch.randn(4, 1, 3)
    found = jax_function(module)(to_jax(parameters(module)), to_jax(x))[0]
    np.testing.assert_allclose(found, module(x)[0].detach().numpy(), atol=1e-6)


def test_hooks_and_things_that_are_no_functions_are_refused():
    with pytest.raises(ValueError, match=r"jax_function\(Linear\): it has backward hooks"):
        jax_function(hooked())
    with pytest.raises(TypeError, match="give a function or module of torch, got 3"):
        jax_function(3)


def test_tensors_and_modules_are_no_arguments():
    net = nn.Linear(2, 1)
    f, weights = jax_function(net), to_jax(dict(net.named_parameters()))
    tensors = r"jax_function\(Linear\): tensors of torch.*convert them with nx.torch.to_jax"
    with pytest.raises(ValueError, match=tensors):
        f(dict(net.named_parameters()), jnp.ones(2))
    with pytest.raises(ValueError, match=tensors):
        f(weights, torch.ones(2))
    with pytest.raises(ValueError, match=r"an argument is a torch module.*named_parameters\(\)"):
        f(net, jnp.ones(2))


@pytest.mark.parametrize("value", [nn.Linear(2, 1), {"net": nn.Linear(2, 1), "bias": jnp.ones(1)}])
def test_a_module_is_no_value(value):
    nest = nx.Nest([nx.Level("net", lambda values, batch: 0.0, optax.sgd(0.1))])
    repair = r"'net'.*a torch Linear.*to_jax\(dict\(net.named_parameters"
    with pytest.raises(ValueError, match=repair):
        nest.init({"net": value}, jax.random.key(0))
