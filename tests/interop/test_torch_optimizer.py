"""optax transformations that step torch's parameters, against torch's own optimizers and optax."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def drawn():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    x = torch.randn(8, 3)
    return net, lambda net: (net(x) - x[:, :1].sin()).square().mean()


def train(net, loss, optimizer, steps=5, **extra):
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(net)
        value.backward()
        optimizer.step(**({"value": value} if extra else {}))
    return [p.detach().clone() for p in net.parameters()]


def named(net):
    return dict(net.named_parameters())


def close(a, b, **tolerance):
    torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


def test_adam_is_that_of_torch():
    """optax computes `1 - 0.999^t` in float32, to about 1e-5."""
    net, loss = drawn()
    other = copy.deepcopy(net)
    found = train(net, loss, nx.torch.optimizer(optax.adam(0.05), named(net)))
    expected = train(other, loss, torch.optim.Adam(other.parameters(), lr=0.05))
    close(found, expected, rtol=1e-4, atol=1e-5)


def test_names_are_those_of_the_tree_and_a_list_will_do():
    net, loss = drawn()
    other, before = copy.deepcopy(net), [p.detach().clone() for p in net.parameters()]
    labels = {name: "held" if name.endswith("bias") else "moves" for name in named(net)}
    held = optax.partition({"held": optax.set_to_zero(), "moves": optax.sgd(0.1)}, labels)
    found = train(net, loss, nx.torch.optimizer(held, named(net)), 1)
    plain = train(other, loss, nx.torch.optimizer(optax.sgd(0.1), other.parameters()), 1)
    close(found[::2], plain[::2])
    close(found[1::2], before[1::2], rtol=0, atol=0)
    assert not torch.equal(plain[1], before[1])


def test_schedulers_scale_the_updates():
    net, loss = drawn()
    other = copy.deepcopy(net)

    def scheduled(net, optimizer):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for _ in range(3):
            found = train(net, loss, optimizer, 1)
            scheduler.step()
        return found

    found = scheduled(net, nx.torch.optimizer(optax.sgd(0.2, 0.9), named(net)))
    close(found, scheduled(other, torch.optim.SGD(other.parameters(), 0.2, 0.9)))


def test_a_learned_rule_hears_the_loss_by_name_and_by_closure():
    net, loss = drawn()
    other, third = copy.deepcopy(net), copy.deepcopy(net)
    rule = nx.learned.velo(lstm_hidden=4, bank=2)
    tx = rule(rule.init(jax.random.key(0)), 1.0, num_steps=20)
    found = train(net, loss, nx.torch.optimizer(tx, named(net)), value=True)

    optimizer = nx.torch.optimizer(tx, named(other))

    def closure():
        optimizer.zero_grad()
        value = loss(other)
        value.backward()
        return value

    values = [optimizer.step(closure) for _ in range(5)]
    assert values[0].requires_grad and values[0] == loss(third)
    close([p.detach() for p in other.parameters()], found)

    p = nx.torch.to_jax({name: a.detach() for name, a in named(third).items()})
    state = tx.init(p)
    for _ in range(5):
        third.zero_grad()
        value = loss(third)
        value.backward()
        g = nx.torch.to_jax({name: a.grad for name, a in named(third).items()})
        u, state = tx.update(g, state, p, value=value.item())
        p = optax.apply_updates(p, u)
        third.load_state_dict(nx.torch.to_torch(p))
    expected = nx.torch.to_torch(p)
    close([expected[name] for name in named(third)], found)
    with pytest.raises(ValueError, match=r"velo: the rule reads the loss"):
        optimizer.step()


def test_what_is_kept_of_the_parameters_is_no_view_of_them():
    """Slow weights in the state, while torch writes to the fast ones."""
    net, loss = drawn()
    keep = optax.GradientTransformation(
        lambda p: (p, jax.tree.map(jnp.zeros_like, p)), lambda g, s, p: (g, (p, g))
    )
    optimizer = nx.torch.optimizer(keep, named(net))
    for _ in range(2):
        before = [p.detach().clone() for p in net.parameters()]
        train(net, loss, optimizer, 1)
        gradients = [p.grad.clone() for p in net.parameters()]
        for p in net.parameters():
            p.grad.zero_()
        kept = optimizer.state_dict()["state"]
        for given, expected in ((kept[:4], before), (kept[4:], gradients)):
            order = sorted(range(4), key=list(named(net)).__getitem__)
            close(given, [expected[i] for i in order], rtol=0, atol=0)


def test_training_goes_on_from_a_stored_state(tmp_path):
    net, loss = drawn()
    tx = nx.optim.muon(0.05)
    optimizer = nx.torch.optimizer(tx, named(net))
    train(net, loss, optimizer, 3)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    expected = train(net, loss, optimizer, 3)
    other, _ = drawn()
    again = nx.torch.optimizer(tx, named(other))
    stored = torch.load(tmp_path / "state", weights_only=True)
    other.load_state_dict(stored["net"])
    again.load_state_dict(stored["optimizer"])
    close(train(other, loss, again, 3), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="state is one of another transformation"):
        nx.torch.optimizer(optax.sgd(0.1), named(other)).load_state_dict(stored["optimizer"])


def test_bfloat16_and_what_has_no_gradient():
    p, unused = (torch.ones(3, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    frozen = torch.ones(3)
    optimizer = nx.torch.optimizer(optax.sgd(0.5), {"p": p, "unused": unused, "frozen": frozen})
    (p * 2).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(p.detach().float(), [0, 0, 0])
    np.testing.assert_array_equal(unused.detach().float(), [1, 1, 1])
    assert p.dtype == torch.bfloat16 and frozen.equal(torch.ones(3))


def test_what_is_no_optimizer_is_refused():
    net, _ = drawn()
    with pytest.raises(ValueError, match=r"parameters is a torch module.*named_parameters"):
        nx.torch.optimizer(optax.sgd(0.1), net)
    with pytest.raises(TypeError, match=r"give an optax transformation, got .*rule\(theta\)"):
        nx.torch.optimizer(nx.learned.lstm(), named(net))
    with pytest.raises(ValueError, match=r"no tensor of the parameters requires a gradient"):
        nx.torch.optimizer(optax.sgd(0.1), [torch.ones(2)])
    with pytest.raises(ValueError, match=r"parameters\['a'\] must be a tensor, got ndarray"):
        nx.torch.optimizer(optax.sgd(0.1), {"a": np.ones(2)})
    optimizer = nx.torch.optimizer(optax.sgd(0.1), named(net))
    with pytest.raises(ValueError, match=r"the parameters are one tree"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
