"""How good samples are: modes covered, precision and recall, the Fréchet distance of features.

Every measure takes arrays of samples and can be compiled and mapped. All of them depend on how many
samples they are given: compare numbers of equal counts only.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mode_shares(
    samples: Float[Array, "n d"], centres: Float[Array, "modes d"], radius: float
) -> Float[Array, " modes_and_none"]:
    """The share of samples that lie within `radius` of each centre, of which it is the nearest; and
    last the share of those that lie near none.

    Args:
        samples: what was generated.
        centres: one for each mode.
        radius: how far a mode reaches, such as three standard deviations.
    """
    apart = jnp.linalg.norm(samples[:, None] - centres[None], axis=-1)
    nearest = jnp.argmin(apart, axis=1)
    place = jnp.where(jnp.min(apart, axis=1) <= radius, nearest, len(centres))
    place = place[:, None] == jnp.arange(len(centres) + 1)[None]
    return jnp.mean(place, axis=0, dtype=samples.dtype)


def modes_covered(shares: Float[Array, " modes_and_none"], least: float = 0.02) -> Array:
    """How many modes have at least this share of the samples; `shares` as of `mode_shares`."""
    return jnp.sum(shares[:-1] >= least)


def matched(
    shares: Float[Array, " modes_and_none"], wanted: Float[Array, " modes_and_none"]
) -> Float[Array, ""]:
    """1 minus the total variation distance between shares of modes, from 0 to 1: it falls where
    modes are missing, where they have too many samples, and where samples lie near none.

    Args:
        shares: of the samples, as of `mode_shares`.
        wanted: of the data.
    """
    return 1 - jnp.sum(jnp.abs(shares - wanted)) / 2


def precision_recall(
    real: Float[Array, "n d"], made: Float[Array, "m d"], k: int = 3
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Precision, the share of generated samples that lie among real ones, and recall, the share of
    real samples that lie among generated ones. A sample lies among others if it is at least as
    close to one of them as this one's k-th neighbour among them is.

    Args:
        real: samples of the data, or their features.
        made: generated samples, or their features.
        k: which neighbour, at least 1 and less than n and m.

    Raises:
        ValueError: too few samples for the k-th neighbour.

    Source: Kynkäänniemi et al., "Improved precision and recall metric for assessing generative
    models" (2019), equations 1 and 2.
    """
    if not 1 <= k < min(len(real), len(made)):
        raise ValueError(
            f"precision_recall: k must be at least 1 and less than the {min(len(real), len(made))} "
            f"samples, got {k}"
        )
    across = _distances(made, real)  # (m, n)
    precision = jnp.any(across <= _reach(real, k)[None], axis=1)
    recall = jnp.any(across <= _reach(made, k)[:, None], axis=0)
    return jnp.mean(precision, dtype=real.dtype), jnp.mean(recall, dtype=real.dtype)


def _reach(points: Float[Array, "n d"], k: int) -> Float[Array, " n"]:
    """The squared distance of each point to its k-th neighbour."""
    apart, places = _distances(points, points), jnp.arange(len(points))[None]
    for _ in range(k):  # a sort takes six times as long on CPUs; the first is the point itself
        apart = jnp.where(places == jnp.argmin(apart, axis=1)[:, None], jnp.inf, apart)
    return jnp.min(apart, axis=1)


def _distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Squared distances. Not by |a|² + |b|² - 2ab, which rounds those of near points away."""
    add = lambda total, column: (total + (column[0][:, None] - column[1][None]) ** 2, None)  # noqa: E731
    return jax.lax.scan(add, jnp.zeros((len(a), len(b)), a.dtype), (a.T, b.T))[0]


def frechet(real: Float[Array, "n d"], made: Float[Array, "m d"]) -> Float[Array, ""]:
    """The Fréchet distance between normal distributions fitted to two sets of features.

        |mean1 - mean2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)

    It is the FID only for features of the Inception network. Too few samples make it larger.

    Args:
        real: features of the data; more samples than features.
        made: features of what was generated.

    Raises:
        ValueError: fewer than two samples.

    Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium" (2017), equation 6.
    """
    if min(len(real), len(made)) < 2:
        raise ValueError(
            f"frechet: two samples are needed for a covariance, got {len(real)} and {len(made)}"
        )
    first, second = jnp.cov(real.T, ddof=1), jnp.cov(made.T, ddof=1)
    first, second = jnp.atleast_2d(first), jnp.atleast_2d(second)
    root = _root(first)
    mixed = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(root @ second @ root), 0))
    gap = jnp.sum((jnp.mean(real, 0) - jnp.mean(made, 0)) ** 2)
    return gap + jnp.trace(first) + jnp.trace(second) - 2 * jnp.sum(mixed)


def _root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The root of a symmetric matrix without negative eigenvalues."""
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]) @ vectors.T
