"""The documentation's table of optimizers and flows, computed: no entry is wrong without a word."""

import functools
import re
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import nestax as nx

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "flows.md"
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `") and len(cells := line.strip("| ").split(" | ")) == 6
}
FLOWS = {
    "unroll": nx.Unroll(),
    "onestep": nx.OneStep(),
    "implicit": nx.Implicit(nx.CG(10)),
    "update": nx.Implicit(nx.Dense(), condition="update"),
    "difference": nx.FiniteDifference(rate=1.0),
}
STEPS, SETTLED = 12, 6000
START = (1.4731, 1.0297)


OPTIMIZERS = {
    "acprop": contrib.acprop(0.02),
    "adabelief": optax.adabelief(0.05, b2=0.9),
    "adadelta": optax.adadelta(1.0, rho=0.5, eps=1e-2),
    "adafactor": optax.adafactor(0.0005),
    "adagrad": optax.adagrad(0.5),
    "adam": optax.adam(0.05, b2=0.9),
    "adamax": optax.adamax(0.05, b2=0.9),
    "adamaxw": optax.adamaxw(0.05, b2=0.9, weight_decay=0.3),
    "adamw": optax.adamw(0.05, b2=0.9, weight_decay=0.3),
    "adan": optax.adan(0.005),
    "ademamix": contrib.ademamix(0.02, b2=0.9),
    "adopt": contrib.adopt(0.02, b2=0.9),
    "amsgrad": optax.amsgrad(0.05, b2=0.9),
    "cocob": contrib.cocob(),
    "dadapt_adamw": contrib.dadapt_adamw(0.1),
    "dog": contrib.dog(1.0),
    "dowg": contrib.dowg(1.0),
    "fromage": optax.fromage(0.002),
    "lamb": optax.lamb(0.002, b2=0.9),
    "lars": optax.lars(0.002, trust_coefficient=1.0),
    "lbfgs": optax.lbfgs(),
    "lion": optax.lion(0.01),
    "momo": contrib.momo(0.2),
    "momo_adam": contrib.momo_adam(0.05),
    "muon": contrib.muon(0.002),
    "nadam": optax.nadam(0.05, b2=0.9),
    "nadamw": optax.nadamw(0.05, b2=0.9, weight_decay=0.3),
    "noisy_sgd": optax.noisy_sgd(0.1, key=0),
    "novograd": optax.novograd(0.02),
    "optimistic_adam_v2": optax.optimistic_adam_v2(0.02, b2=0.9),
    "optimistic_gradient_descent": optax.optimistic_gradient_descent(0.1),
    "polyak_sgd": optax.polyak_sgd(0.3),
    "prodigy": contrib.prodigy(0.5),
    "radam": optax.radam(0.05, b2=0.9),
    "rmsprop": optax.rmsprop(0.01, eps=1e-3),
    "rprop": optax.rprop(0.02),
    "sam": contrib.sam(optax.sgd(0.2), optax.sgd(0.01), opaque_mode=True),
    "schedule_free_adamw": contrib.schedule_free_adamw(0.05, b2=0.9),
    "schedule_free_sgd": contrib.schedule_free_sgd(0.2),
    "sgd": optax.sgd(0.2),
    "sgd, momentum": optax.sgd(0.1, momentum=0.5),
    "sgd, nesterov": optax.sgd(0.1, momentum=0.5, nesterov=True),
    "sign_sgd": optax.sign_sgd(0.01),
    "simplified_ademamix": contrib.simplified_ademamix(0.01),
    "sm3": optax.sm3(0.3),
    "sophia": contrib.sophia(0.02),
    "yogi": optax.yogi(0.05, b2=0.9),
    "chain(add_decayed_weights, sgd)": optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.2)),
    "chain(clip_by_global_norm, sgd)": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.2)),
    "chain(sgd, keep_params_nonnegative)": optax.chain(
        optax.sgd(0.2), optax.keep_params_nonnegative()
    ),
    "MultiSteps(sgd, 4)": optax.MultiSteps(optax.sgd(0.2), 4).gradient_transformation(),
}


def inner(w, d):
    # Its Hessian is the identity, so that a step of gradient descent of rate 1 is a full one.
    return jnp.sum((w - d * jnp.array([1.0, 0.5]) + jnp.array([0.0, 2.0])) ** 2) / 2


def outer(w):
    return jnp.vdot(w, jnp.array([1.0, 3.0]))


class Executed:
    """The inner loop by hand, on optax alone."""

    def __init__(self, name, optimizer):
        self.optimizer = optimizer = optax.with_extra_args_support(optimizer)

        @jax.jit
        def loop(d, w, state, steps):
            def step(_, carry):
                w, state = carry
                loss = functools.partial(inner, d=d)
                value, gradient = jax.value_and_grad(loss)(w)
                extras = {"value": value, "grad": gradient, "value_fn": loss}
                if name == "sam":
                    extras = {"grad_fn": lambda w, _: jax.grad(loss)(w)}
                elif name == "sophia":
                    extras = {"obj_fn": loss}
                updates, state = optimizer.update(gradient, state, w, **extras)
                return optax.apply_updates(w, updates), state

            return jax.lax.fori_loop(0, steps, step, (w, state))

        self.loop = loop

    def begin(self):
        w = jnp.array(START)
        return w, self.optimizer.init(w)

    def slope(self, point, steps, width):
        ends = [outer(self.loop(1.0 + h, *point, steps)[0]) for h in (width, -width)]
        return float(ends[0] - ends[1]) / (2 * width)


def begun(optimizer, flows):
    """A nest of an inner level and outer ones, whose optimizers subtract their gradients, and its
    state; or the name of a level that is refused."""
    outers = [
        nx.Level(name, lambda v, _: outer(v["w"]), optax.sgd(1.0), every=STEPS, flow=flow)
        for name, flow in flows.items()
    ]
    loss = lambda v, _: inner(v["w"], sum(v[name] for name in flows))  # noqa: E731
    nest = nx.Nest([nx.Level("w", loss, optimizer), tuple(outers)])
    begin = {"w": jnp.array(START)} | {name: 1.0 / len(flows) for name in flows}
    try:
        return nest, nest.init(begin, jax.random.key(0)), None
    except ValueError as error:
        found = re.match(r"level '(\w+)': ", str(error))
        assert found, error
        return None, None, found[1]


def gradients(name, optimizer):
    """Level by flow: what was refused, warned about, and found, at the start and settled."""
    executed = Executed(name, optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flows, refused, nest = dict(FLOWS), set(), None
        while flows and nest is None:
            caught.clear()
            nest, state, who = begun(optimizer, flows)
            if who == "w":  # some flow cannot have it inside: which?
                out = {flow for flow in flows if begun(optimizer, {flow: flows[flow]})[2]}
                assert out, "refused only together"
            else:
                out = {who} - {None}
            refused |= out
            flows = {flow: one for flow, one in flows.items() if flow not in out}
        if not flows:
            return refused, set(), {}, {}, executed, None
        settled = executed.loop(1.0, *executed.begin(), SETTLED)
        late = one_step(nest, state, settled)
        messages = [str(one.message) for one in caught]
        first = one_step(nest, state, executed.begin())  # where point flows may say what they like
    warned = {name for name in flows if any(f"level '{name}'" in m for m in messages)}
    return refused, warned, first, late, executed, settled


def one_step(nest, state, point):
    """The gradients of the outer levels, whose optimizers subtract them."""
    w, memory = point
    here = state.replace(values={"w": w}, optimizers={"w": memory})
    after, _ = nest.run(here, steps=1, check=False)
    return {
        name: float(here.values[name] - after.values[name]) for name in FLOWS if name in here.values
    }


def stepped(w, width=0.01):
    """The derivative of the outer loss after one step of gradient descent of rate 1, by hand."""
    ends = [outer(w - jax.grad(inner)(w, 1.0 + h)) for h in (width, -width)]
    return float(ends[0] - ends[1]) / (2 * width)


def verdicts(name):
    refused, warned, first, late, executed, settled = gradients(name, OPTIMIZERS[name])
    begin = executed.begin()

    def close(found, expected, rtol):
        return abs(found - expected) <= rtol * max(abs(expected), 1e-3)

    said = []
    for flow in FLOWS:
        if flow in refused or flow in warned:
            said.append("refused" if flow in refused else "warned")
            continue
        rtol = 1e-3
        if flow == "unroll":
            found, right = first[flow], executed.slope(begin, STEPS, 1e-4)
        elif flow == "difference":  # one step of gradient descent from where the weights are
            found, right = late[flow], stepped(settled[0])
        elif flow == "onestep":
            before = executed.loop(1.0, *begin, STEPS - 1)
            found, right = first[flow], executed.slope(before, 1, 1e-4)
        else:
            # What never comes quite to rest has the slope of a chord.
            later = [outer(executed.loop(1.0, *settled, steps)[0]) for steps in (1, 7, 50)]
            moved = max(abs(one - outer(settled[0])) for one in later)
            width, rtol = (0.01, 1e-3) if moved < 1e-7 else (0.5, 0.03)
            found, right = late[flow], executed.slope(settled, SETTLED, width)
        if not np.isfinite(found):  # a run stops
            said.append("stopped")
            continue
        said.append("exact" if close(found, right, rtol) else f"wrong, {found:.4g} for {right:.4g}")
    return said


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_flow_is_wrong_without_a_word(x64, name):
    said = verdicts(name)
    # Rprop skips a step where a sign changes: the moment decides whether weights are at rest.
    known = [row.split(" or ") for row in ROWS[name]]
    assert all(one in row for one, row in zip(said, known, strict=True)), said


if __name__ == "__main__":
    with jax.enable_x64(True):
        for name in sys.argv[1:] or OPTIMIZERS:
            print(f"| `{name}` | {' | '.join(verdicts(name))} |", flush=True)
