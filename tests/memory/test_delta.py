"""The named memories: what they are by definition, and what they are to one another."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from references import memory as naive

from nestax import memory as nm

# Compiled as one program: operation by operation each would be a program of its own.
delta_rule, linear_attention, memory_scan, titans = (
    jax.jit(function, static_argnames=("chunk", "implementation", "read"))
    for function in (nm.delta_rule, nm.linear_attention, nm.memory_scan, nm.titans)
)
IMPLEMENTATIONS = (
    {"implementation": "recurrent"},
    {"implementation": "chunked", "chunk": 16},
    {"implementation": "chunked", "chunk": 64},
)


def draw(time=63, key=5, value=3, seed=0):
    """(q, k, v) with unit keys, rates in (0, 2), decays, momenta, and (M, S)."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, time, key))
    k = k / np.linalg.norm(k, axis=1, keepdims=True)
    v = rng.normal(size=(time, value))
    beta, alpha, mu = rng.uniform(0, 2, time), rng.uniform(0.8, 1, time), rng.uniform(0, 1, time)
    return q, k, v, beta, alpha, mu, *rng.normal(size=(2, value, key))


def arrays(*given):
    return tuple(jnp.asarray(a) for a in given)


def close(found, wanted, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(found), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("gated", [True, False])
def test_the_delta_rule_is_its_definition(x64, gated):
    q, k, v, beta, alpha, _, memory, _ = draw()
    wanted = naive.delta_rule(q, k, v, beta, alpha if gated else np.ones(63), memory)
    tokens = arrays(q, k, v, beta, *([alpha] if gated else []))
    for options in IMPLEMENTATIONS:
        close(delta_rule(*tokens, state=jnp.asarray(memory), **options), wanted)


def test_titans_is_its_definition(x64):
    q, k, v, beta, alpha, mu, memory, surprise = draw()
    rate = 0.1 * beta
    wanted = naive.titans(q, k, v, rate, mu, alpha, memory, surprise)
    for options in IMPLEMENTATIONS:
        found = titans(*arrays(q, k, v, rate, mu, alpha), state=arrays(memory, surprise), **options)
        close(found, wanted)


def test_without_momentum_titans_is_the_delta_rule_that_retains_what_it_does_not_erase(x64):
    q, k, v, beta, alpha, mu, memory, surprise = arrays(*draw())
    found = titans(q, k, v, beta, 0 * mu, alpha, (memory, surprise), read="after")
    wanted = memory_scan(q, k, beta[:, None] * v, beta, alpha, state=memory, read="after")
    close((found[0], found[1][0]), wanted)


def test_a_write_is_a_gradient_step_on_the_memory_s_own_objective(x64):
    q, k, v, beta, _, _, memory, _ = arrays(*draw(time=1))

    def step(objective):
        return memory - beta[0] * jax.grad(objective)(memory)

    hebbian = step(lambda m: -jnp.vdot(m @ k[0], v[0]))
    close(linear_attention(q, k, v, beta, state=memory)[1], [hebbian])
    regression = step(lambda m: jnp.sum(jnp.square(m @ k[0] - v[0])) / 2)
    close(delta_rule(q, k, v, beta, state=memory)[1], [regression])


def test_linear_attention_is_attention_without_the_softmax(x64):
    q, k, v, *_ = draw()
    scores = np.tril(q @ k.T)
    close(linear_attention(*arrays(q, k, v))[0], [scores @ v])
    close(linear_attention(*arrays(q, k, v), read="before")[0], [np.tril(scores, -1) @ v])
    alpha = np.full(63, 0.9)
    time = np.arange(63)
    decayed = scores * 0.9 ** np.maximum(time[:, None] - time[None, :], 0)
    close(linear_attention(*arrays(q, k, v), alpha=jnp.asarray(alpha), chunk=16)[0], [decayed @ v])


@pytest.mark.parametrize("objective", ["dot", "half", "full"])
def test_hope_s_linear_memory_is_a_gated_delta_rule(x64, objective):
    """S = alpha S (I - beta k k') + beta v' k' with these beta and v'."""
    q, k, v, rate, alpha, _, memory, _ = draw()
    rate = rate / 3
    wanted = naive.hope(q, k, v, rate, alpha, memory, objective)
    times, share = {"dot": (1, 1), "half": (2, 1 / 2), "full": (3, 2 / 3)}[objective]
    beta, values = times * rate / alpha, share * alpha[:, None] * v
    tokens = arrays(q, k, values, beta, alpha)
    close(delta_rule(*tokens, jnp.asarray(memory), chunk=16, read="before"), wanted)


def test_hope_s_frozen_chunk_is_one_as_well(x64):
    q, k, v, rate, alpha, _, memory, _ = draw(time=16)
    frozen = k @ memory.T - v
    wanted = naive.hope(q, k, -frozen, rate, alpha, memory, "dot")
    values = alpha[:, None] * (v - k @ memory.T)
    tokens = arrays(q, k, values, rate / alpha, alpha)
    close(delta_rule(*tokens, jnp.asarray(memory), read="before"), wanted)


def test_the_end_of_titans_frozen_chunk_in_closed_form(x64):
    q, k, v, rate, alpha, mu, memory, _ = draw(time=16)
    gradients = np.einsum("tv,tk->tvk", k @ memory.T - v, k)
    end = np.prod(alpha) * memory
    for j in range(16):
        c = sum(
            np.prod(alpha[i + 1 :]) * np.prod(mu[j + 1 : i + 1]) * rate[j] for i in range(j, 16)
        )
        end = end - c * gradients[j]
    writes = rate[:, None] * (v - k @ memory.T)
    tokens, begin = arrays(q, k, writes), arrays(memory, 0 * memory)
    _, (found, _) = memory_scan(
        *tokens, retain=jnp.asarray(alpha), momentum=jnp.asarray(mu), state=begin, chunk=5
    )
    close(found, [end])


def test_a_repeated_key_is_overwritten_and_a_rate_of_two_reflects():
    k = jnp.tile(jnp.array([[0.6, 0.8]]), (4, 1))
    v = jnp.arange(4.0)[:, None]
    outputs, _ = delta_rule(k, k, v, jnp.ones(4))
    np.testing.assert_allclose(outputs, v, atol=1e-6)
    start = jnp.array([[0.6, 0.8]])
    outputs, _ = delta_rule(k, k, 0 * v, jnp.full(4, 2.0), state=start)
    np.testing.assert_allclose(outputs[:, 0], [-1, 1, -1, 1], atol=1e-5)


def test_long_sequences_in_float32_with_rates_up_to_two():
    q, k, v, beta, alpha, _, memory, _ = draw(1000, 60, 60)
    wanted = naive.delta_rule(q, k, v, beta, alpha, memory)
    tokens = (jnp.asarray(a, jnp.float32) for a in (q, k, v, beta, alpha, memory))
    close(delta_rule(*tokens), wanted, 1e-5)


def test_a_number_is_the_rate_of_every_token():
    """Also in its dtype: a Python number does not widen float32."""
    q, k, v, *_ = (jnp.asarray(a, jnp.float32) for a in draw(time=9))
    every = lambda rate: jnp.asarray(np.full(9, rate, np.float32))  # noqa: E731
    with jax.enable_x64(True):
        cases = (
            (nm.linear_attention, (0.5, 0.9)),
            (nm.delta_rule, (0.5, 0.9)),
            (nm.delta_rule, (jnp.float32(0.5), None)),
            (nm.titans, (0.5, 0.7, 0.9)),
        )

        @jax.jit
        def pairs(*tokens):
            made = []
            for function, numbers in cases:
                rates = (None if n is None else every(n) for n in numbers)
                made.append((function(*tokens, *numbers), function(*tokens, *rates)))
            return made

        for one, each in pairs(q, k, v):
            jax.tree.map(np.testing.assert_array_equal, one, each)
            assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(one))


def test_outputs_have_the_dtype_of_tokens_and_states_are_wide():
    q, k, v, beta, alpha, mu, *_ = (jnp.asarray(a, jnp.float32) for a in draw(time=9))
    half = [a.astype(jnp.bfloat16) for a in (q, k, v)]
    for function, rates in (
        (linear_attention, (beta, alpha)), (delta_rule, (beta, alpha)), (titans, (beta, mu, alpha)),
    ):  # fmt: skip
        outputs, state = function(*half, *rates)
        assert outputs.dtype == jnp.bfloat16
        assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(state))


def test_wrong_rates_are_refused(monkeypatch):
    q, k, v, beta, _, mu, *_ = arrays(*draw(time=4))
    # The annotations, which only tests check, would refuse them first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for wrong, function in (
        (lambda: nm.linear_attention(q, k, v, beta[:1]), "linear_attention: rate"),
        (lambda: nm.linear_attention(q, k, v, alpha=beta[:1]), "linear_attention: alpha"),
        (lambda: nm.delta_rule(q, k, v, beta[:, None]), "delta_rule: beta"),
        (lambda: nm.titans(q, k, v, beta[:3], mu), "titans: rate"),
        (
            lambda: nm.delta_rule(q, k, v, beta, beta[:3]),
            "alpha must be a number or hold one per token",
        ),
        (
            lambda: nm.titans(q, k, v, beta, mu[:3]),
            "momentum must be a number or hold one per token",
        ),
        (lambda: nm.delta_rule(q[:3], k, v, beta), "q and k must be"),
        (lambda: nm.linear_attention(q, k, v[:3]), "values must be"),
    ):
        with pytest.raises(ValueError, match=function):
            wrong()
