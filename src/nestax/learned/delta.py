"""Delta momentum that is meta-trained: a linear memory that learns by the delta rule."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim.internal import whole
from .memories import Memories, kept, logit, product


def delta_momentum(keys: Any = 8, values: Any = 4, hidden: Any = 8) -> Memories:
    r"""Delta momentum whose keys, values, initial memory, rates and read-out are learned.

    Each tensor has a matrix M (keys, values) that learns to foresee the value of a coordinate from
    the key that its past gives it. With coordinates i = 1..n, k_i' the key before this update, and
    nu(x) = x / rms(x) over the tensor:

        h_i = [nu(m_j), nu(m_j / r)]_i,  f_i = [nu(g), nu(g / r), nu(p)]_i and h_i
        k_i = nu(tanh(K' h_i)),          v_i = tanh(V' f_i)
        e_i = M' k_i' - v_i
        M  <- M_0 + a (M - M_0) - eta / (n keys) sum_i k_i' e_i'            (the write)
        y_i = M' k_i                                                        (the read)
        o_i = d' [f_i, y_i] + q' tanh(A' [f_i, y_i])                        (the read-out)
        x   = 1, rms v ~ rms e, [rms m_j ~ rms r]_j, rms g ~ rms r          (comparisons)
        p  <- p - learning_rate exp(z' x) nu(o)                             (the size)

    where m_j are three averages of the gradient g with decays b_j, and r is the root of an average
    of g^2; `a ~ b = (a - b) / (a + b)`, for which m_j and r are corrected for their bias at zero as
    Adam's are. Before a value is written, what the memory says for its key is erased, as in
    `nx.optim.delta_momentum`. The keys of that are the rows of the gradient, and its memory has the
    size of the tensor; here coordinates have keys, and the memory has `keys * values` numbers.

    Theta has K, V, M_0, d, A, q, z, and the logits of b_j, of the decay of r, of a and of eta, once
    for matrices (two axes or more) and once for vectors and scalars; at the defaults 506 numbers.
    It does not depend on shapes. As a and eta are between 0 and 1 and the mean of k k' has a trace
    of `keys`, the memory is stable for every theta. Beside M the state holds four numbers per
    parameter. Steps depend neither on the scale of the loss nor on the number of the update.

    Before meta-training the first entry of a value is tanh(nu(g / r)), and the direction is
    nu(m_2 / r), Adam's without an eps, plus three times what the memory foresees of that entry;
    decays are 0.9 and 0.999, a is 0.99 and eta 0.5. The first step of a tensor has the root mean
    square `learning_rate`; later ones are smaller as averages cancel and gradients shrink, about as
    Adam's. `rule.member("momentum", decay)` is theta of normalized momentum, and
    `rule.member("adam", decay, second)` that of normalized Adam: all their steps have that root
    mean square.

    Args:
        keys: entries of a key.
        values: entries of a value.
        hidden: tanh units of the read-out.

    Returns:
        The rule.

    Raises:
        ValueError: a number that is not whole and at least 1.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (48-49), for the
    write. Features and normalization follow Metz et al., "Practical tradeoffs between memory,
    compute, and performance in learned optimizers" (2022), and "Celo2" (2602.19142).

    Example:
        ```python
        rule = nx.learned.delta_momentum()
        optimizer = rule(rule.member("momentum", 0.5), learning_rate=0.1)
        weights = {"w": jnp.ones((2, 3))}
        state = optimizer.init(weights)
        updates, state = optimizer.update({"w": 2 * jnp.ones((2, 3))}, state, weights)
        print(updates["w"][0].round(3))  # [-0.1 -0.1 -0.1]
        ```
    """
    return DeltaMomentum(
        whole("delta_momentum", "keys", keys),
        whole("delta_momentum", "values", values),
        whole("delta_momentum", "hidden", hidden),
    )


@dataclasses.dataclass(frozen=True)
class DeltaMomentum(Memories):
    """See `delta_momentum`."""

    name: ClassVar[str] = "delta_momentum"

    def memory(self, key: Array) -> PyTree:
        """See `Memories.memory`."""
        del key
        return {
            "initial": jnp.zeros((self.keys, self.values), jnp.float32),
            "retention": logit(0.99),
            "rate": logit(0.5),
        }

    def read(self, memory: PyTree, key: Array) -> Array:
        """See `Memories.read`."""
        return product(memory, key)

    def write(
        self, weights: PyTree, memory: PyTree, key: Array, value: Array
    ) -> tuple[PyTree, Array]:
        """See `Memories.write`."""
        error = self.read(memory, key) - value
        coordinates = list(range(1, key.ndim))
        gradient = jnp.tensordot(key, error, (coordinates, coordinates)) / key.size
        retention, rate = jax.nn.sigmoid(weights["retention"]), jax.nn.sigmoid(weights["rate"])
        return kept(weights["initial"], memory, retention) - rate * gradient, error
