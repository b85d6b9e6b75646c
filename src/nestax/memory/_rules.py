r"""Rules: how one token writes a linear memory M of shape (value, key).

A rule is a pure function (state, key, value, ...) -> state; the state is the memory, or a tuple of
which it is the first. A write is a gradient step on an objective (`_objectives`), with retention:

    gd        M <- a M - eta e k'                             e: the objective's error at M k
    dgd       M <- a M (I - eta' k k') - eta' e k'            eta' = eta / (1 + eta |k|^2)

`write` tabulates what each of them converges to.

The implicit rate never reverses the memory's output: the eigenvalue of M's transition along the key
is between 0 and a. State tracking, parity first of all, needs negative ones, hence explicit rates
eta |k|^2 between 1 and 2 (Grazzi et al., "Unlocking state-tracking in linear RNNs through negative
eigenvalues", 2024).

Source: "Nested Learning" (2025), eq. (64-68) and (86-93) with these errors in print corrected: the
factor (I - eta k k') stands on the right of M, (92) adds v k', and the implicit rate has |k|^2 in
it. "Titans" (2025).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arguments import check_option, check_pair, check_rate, check_write, floating_array
from ._objectives import Objective, dot, error_of, l2

Scalar = float | Float[Array, ""]
Memory = Float[Array, "value key"]
Key = Float[Array, " key"]
Value = Float[Array, " value"]


def implicit_rate(
    rate: float | Float[Array, "*#batch"], key: Float[Array, "*batch key"]
) -> Float[Array, "*batch"]:
    """The step size of an implicit gradient step, `eta' = eta / (1 + eta |k|^2)`.

    Args:
        rate: eta, 0 or more; one number, or one for each key.
        key: k, of shape (..., key).

    Returns:
        eta', of shape (...).

    Raises:
        ValueError: a known rate out of range; a rate whose shape does not fit the keys.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (56-57) and
    appendix C; in print with |k| = 1.
    """
    check_rate("implicit_rate", "rate", rate)
    key = floating_array("implicit_rate", "key", key)
    batch, own = key.shape[:-1], jnp.shape(rate)
    pairs = zip(reversed(own), reversed(batch), strict=False)
    if not key.ndim or len(own) > len(batch) or any(a not in (1, b) for a, b in pairs):
        raise ValueError(
            f"implicit_rate: rate must be one number, or one for each key of shape (..., key), got "
            f"shape {own} for {key.shape}"
        )
    return implied(rate, key)


def implied(rate: float | Array, key: Array) -> Array:
    """`implicit_rate` of what is checked."""
    return rate / (1 + rate * jnp.sum(jnp.square(key), axis=-1))


def write(
    memory: Memory,
    key: Key,
    value: Value,
    rate: Scalar,
    retain: Scalar = 1.0,
    objective: str | Objective = "l2",
    rule: str = "gd",
    implicit: bool = True,
) -> Memory:
    """Writes one token into a linear memory: any objective with any rule.

        gd              a M - eta e k'
        dgd, implicit   a M (I - eta' k k') - eta' e k',    eta' = eta / (1 + eta |k|^2)
        dgd, explicit   M (a I - eta k k') - eta e k'

    Here e is the objective's error at M k. If one pair is written again and again without retention
    (a = 1), M k converges as follows:

        objective   rule   limit of M k    stable while
        dot         gd     none            never: grows by eta v each time (linear attention)
        l2          gd     v               eta |k|^2 < 1 + a    (the delta rule)
        dot         dgd    v               always; explicit: eta |k|^2 < 1 + a
        l2          dgd    v / 2           always; explicit: 2 eta |k|^2 < 1 + a

    Delta gradient descent (dgd) also erases the memory's old output for the key; `"dot"` with
    `"dgd"` is therefore the delta rule.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        retain: a, 0 to 1.
        objective: `"dot"`, `"l2"`, or a function `(prediction, value) -> error`.
        rule: `"gd"` or `"dgd"`.
        implicit: for `"dgd"`: whether to take the minimiser of
            `|M k + e|^2 / 2 + |M - a M_old|^2 / (2 eta)`, which is stable at every rate, or the
            explicit step (88).

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: an unknown objective or rule; a known rate or retention out of range; shapes
            that do not fit.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (56-57), (86-93).

    Example:
        ```python
        memory, key, value = jnp.zeros((1, 2)), jnp.array([1.0, 0.0]), jnp.array([4.0])
        print(nx.memory.write(memory, key, value, rate=0.5))  # [[2. 0.]]
        ```
    """
    memory, key, value = check_write("write", memory, key, value, rate=rate, retain=retain)
    error = error_of(objective, "write")
    check_option("write", "rule", rule, "gd", "dgd")
    if rule == "gd":
        return retain * memory + step(memory, key, value, rate, error)
    return _forgetting(memory, key, value, rate, retain, error, implicit)


def _forgetting(
    memory: Memory,
    key: Key,
    value: Value,
    rate: Scalar,
    retain: Scalar,
    error: Objective,
    implicit: bool,
) -> Memory:
    """The rule "dgd" with what is checked."""
    said = memory @ key
    wrong = error(said, value)
    if implicit:
        rate = implied(rate, key)
        said = retain * said
    return retain * memory - rate * jnp.outer(said + wrong, key)


def step(memory: Memory, key: Key, value: Value, rate: Scalar, error: Objective) -> Memory:
    """-eta e k', the gradient step."""
    return -rate * jnp.outer(error(memory @ key, value), key)


def hebbian(
    memory: Memory, key: Key, value: Value, rate: Scalar = 1.0, retain: Scalar = 1.0
) -> Memory:
    """The Hebbian rule of linear attention, `M <- a M + eta v k'`.

    It is a gradient step on `-<M k, v>`.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        retain: a, 0 to 1.

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: a known rate or retention out of range; shapes that do not fit.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (64).
    """
    memory, key, value = check_write("hebbian", memory, key, value, rate=rate, retain=retain)
    return retain * memory + step(memory, key, value, rate, dot)


def delta(memory: Memory, key: Key, value: Value, rate: Scalar, retain: Scalar = 1.0) -> Memory:
    """The delta rule, `M <- a M - eta (M k - v) k'`.

    It is a gradient step on `|M k - v|^2 / 2`, and stable while eta |k|^2 <= 1 + a.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        retain: a, 0 to 1.

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: a known rate or retention out of range; shapes that do not fit.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (65), with
    (I - eta k k') on the right of M.
    """
    memory, key, value = check_write("delta", memory, key, value, rate=rate, retain=retain)
    return retain * memory + step(memory, key, value, rate, l2)


def gated_delta(
    memory: Memory, key: Key, value: Value, rate: Scalar, retain: Scalar = 1.0
) -> Memory:
    """The gated delta rule, `M <- a M (I - b k k') + b v k'`: decay first, then the delta rule.

    It is stable while b |k|^2 <= 1 + 1/a. With b = eta' (`implicit_rate`) it is implicit
    `delta_gradient_descent`.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: b, usually in (0, 1) for unit keys; in (1, 2) eigenvalues are negative.
        retain: a, 0 to 1.

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: a known rate or retention out of range; shapes that do not fit.

    Source: Yang et al., "Gated delta networks" (2024); Nested Learning (2025), section 5. Rates
    above 1: Grazzi et al. (2024).

    Example:
        ```python
        memory, key, value = jnp.array([[3.0, 1.0]]), jnp.array([1.0, 0.0]), jnp.array([5.0])
        print(nx.memory.gated_delta(memory, key, value, rate=1.0, retain=0.5))  # [[5.  0.5]]
        ```
    """
    memory, key, value = check_write("gated_delta", memory, key, value, rate=rate, retain=retain)
    memory = retain * memory
    return memory + step(memory, key, value, rate, l2)


def delta_gradient_descent(
    memory: Memory,
    key: Key,
    value: Value,
    rate: Scalar,
    retain: Scalar = 1.0,
    objective: str | Objective = "dot",
    implicit: bool = True,
) -> Memory:
    """Delta gradient descent, `M <- a M (I - eta' k k') - eta' e k'`: `write` with rule `"dgd"`.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        retain: a, 0 to 1.
        objective: `"dot"`, `"l2"`, or a function `(prediction, value) -> error`.
        implicit: whether eta' = eta / (1 + eta |k|^2), or the explicit step; see `write`.

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: an unknown objective; a known rate or retention out of range; shapes that do not
            fit.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (56-57), (88),
    (92-93).
    """
    memory, key, value = check_write(
        "delta_gradient_descent", memory, key, value, rate=rate, retain=retain
    )
    error = error_of(objective, "delta_gradient_descent")
    return _forgetting(memory, key, value, rate, retain, error, implicit)


def oja(memory: Memory, key: Key, value: Value, rate: Scalar, retain: Scalar = 1.0) -> Memory:
    """Oja's rule, `M <- a M + eta v (k - M' v)'`.

    It is a gradient step of size eta / 2 on `-2 <M k, v> + |M' v|^2`. It erases along the value,
    not along the key. It is stable while eta |v|^2 <= 1 + a, so normalize the values.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        retain: a, 0 to 1.

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: a known rate or retention out of range; shapes that do not fit.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (66-67).
    """
    memory, key, value = check_write("oja", memory, key, value, rate=rate, retain=retain)
    return retain * memory + rate * jnp.outer(value, key - memory.T @ value)


def titans_rule(
    state: tuple[Memory, Memory],
    key: Key,
    value: Value,
    rate: Scalar,
    momentum: Scalar,
    retain: Scalar = 1.0,
    objective: str | Objective = "l2",
) -> tuple[Memory, Memory]:
    """Titans' rule, `S <- mu S - eta e k'`, `M <- a M + S`: a gradient step with momentum.

    Args:
        state: (M, S), the memory and its momentum, (value, key) each; begin with S = 0.
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more; twice the paper's theta, whose objective has no factor 1/2.
        momentum: mu, 0 to 1 (eta in the paper).
        retain: a, 0 to 1 (1 - alpha in the paper).
        objective: as in `write`.

    Returns:
        The new (M, S).

    Raises:
        ValueError: a state that is not a pair; an unknown objective; a known rate, momentum or
            retention out of range; shapes that do not fit.

    Source: Behrouz, Zhong and Mirrokni, "Titans" (2025); Nested Learning (2025), section 5.
    """
    memory, surprise = check_pair("titans_rule", "(M, S)", state)
    memory, key, value = check_write(
        "titans_rule", memory, key, value, rate=rate, momentum=momentum, retain=retain
    )
    error = error_of(objective, "titans_rule")
    surprise = momentum * surprise + step(memory, key, value, rate, error)
    return retain * memory + surprise, surprise
