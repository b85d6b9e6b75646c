"""Mutual information as its definitions read: loops and numpy.unique, nothing fast.

Everything is in bits. Exact values of small problems come from scipy's distributions.
"""

import math

import numpy as np
from scipy import integrate, stats
from scipy.special import digamma


def entropy(counts):
    """Plug-in entropy of counts."""
    p = np.asarray(counts, np.float64) / np.sum(counts)
    p = p[p > 0]
    return float(-np.sum(p * np.log2(p)))


def rows_entropy(rows):
    """Plug-in entropy of the distinct rows of an integer array."""
    return entropy(np.unique(np.atleast_2d(rows.T).T, axis=0, return_counts=True)[1])


def fixed_cells(t, bins=30, low=-1.0, high=1.0):
    """Cells of equal width; values at or past an end are in the end cell."""
    return np.digitize(t, np.linspace(low, high, bins + 1)[1:-1].astype(t.dtype))


def adaptive_cells(t, bins):
    """Cells of equal width over the range of the layer."""
    return fixed_cells(t, bins, float(t.min()), float(t.max()))


def quantile_cells(t, bins):
    """Cells of equal mass per unit, by the mid-rank."""
    n, units = t.shape
    cells = np.zeros((n, units), int)
    for unit in range(units):
        for row in range(n):
            below = int(np.sum(t[:, unit] < t[row, unit]))
            not_above = int(np.sum(t[:, unit] <= t[row, unit]))
            cells[row, unit] = (below + not_above) * bins // (2 * n)
    return cells


def binned(cells, y=None):
    """H(cells) and, by the definition of conditional entropy, I(cells;Y)."""
    h = rows_entropy(cells)
    if y is None:
        return h, None
    within = sum(np.mean(y == label) * rows_entropy(cells[y == label]) for label in np.unique(y))
    return h, h - within


def kde(t, y, variance):
    """Lower and upper value for I(M;X), then for I(M;Y)."""
    everyone = np.ones(len(t), bool)
    values = [_kde_entropy(t[everyone], variance, c) for c in (8, 2)]
    for total, c in zip(tuple(values), (8, 2), strict=True):
        within = sum(
            np.mean(y == label) * _kde_entropy(t[y == label], variance, c) for label in np.unique(y)
        )
        values.append(total - within)
    return values


def _kde_entropy(t, variance, factor):
    total = 0.0
    for a in t:
        inner = [math.exp(-float(np.sum((a - b) ** 2)) / (factor * variance)) for b in t]
        total -= math.log2(sum(inner) / len(t))
    return total / len(t)


def gaussian(t, y, std, epsilon=1e-6, ddof=1):
    """The log-determinant formula, and its difference from the mean over classes."""

    def bound(rows):
        units = rows.shape[1]
        variance = std**2 + epsilon
        # numpy's covariance of a single row is not a number; it is taken to be zero.
        covariance = np.zeros((units, units))
        if len(rows) > ddof:
            covariance = np.atleast_2d(np.cov(rows.T, ddof=ddof))
        logdet = np.linalg.slogdet(covariance + variance * np.eye(units))[1]
        return 0.5 * (logdet - units * math.log(variance)) / math.log(2)

    within = sum(np.mean(y == label) * bound(t[y == label]) for label in np.unique(y))
    return bound(t), bound(t) - within


def ksg(a, b, k, standardize=True):
    """Kraskov's first estimator, row by row; of what ties with the k-th one, half is nearer."""
    if standardize:
        a, b = (x / np.std(x, axis=0) for x in (a, b))
    n = len(a)
    total = 0.0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        in_a = [max(abs(a[i] - a[j])) for j in others]
        in_b = [max(abs(b[i] - b[j])) for j in others]
        in_both = [max(p, q) for p, q in zip(in_a, in_b, strict=True)]
        radius = sorted(in_both)[k - 1]

        def nearer_and_tied(distances, radius=radius):
            tied = sum(math.isclose(d, radius, rel_tol=1e-9) for d in distances)
            return sum(d < radius and not math.isclose(d, radius) for d in distances), tied

        nearer, tied = nearer_and_tied(in_both)
        total += digamma(nearer + (tied + 1) / 2)
        for distances in (in_a, in_b):
            nearer, tied = nearer_and_tied(distances)
            total -= digamma(nearer + max(tied - 1, 0) / 2 + 1)
    return (digamma(n) + total / n) / math.log(2)


def tanh_entropy(w, bins=30):
    """H of tanh(w x) in cells of equal width on [-1, 1], for standard normal x."""
    inner = np.arctanh(np.linspace(-1, 1, bins + 1)[1:-1]) / w
    return entropy(np.diff(stats.norm.cdf(np.concatenate([[-np.inf], inner, [np.inf]]))))


def relu_entropy(w, width):
    """H of relu(w x) in cells of this width, zero a cell of its own, for standard normal x."""
    edges = np.arange(0, 9 * w + width, width) / w
    return entropy(np.concatenate([[0.5], np.diff(stats.norm.cdf(edges))]))


def expected_plug_in(n, cells):
    """Mean of the plug-in entropy of n draws from a uniform distribution on `cells` cells."""
    c = np.arange(1, 200 + 4 * n // cells)
    pmf = stats.binom.pmf(c, n, 1 / cells)
    return math.log2(n) - cells / n * float(np.sum(pmf * c * np.log2(c)))


def expected_plug_in_with_labels(n, cells, classes):
    """The same for I(T;Y), with n / classes draws in each class and T independent of Y."""
    return expected_plug_in(n, cells) - expected_plug_in(n // classes, cells)


def two_points(std):
    """I(M;X) of two points at -1 and 1 in Gaussian noise, by quadrature."""

    def integrand(m):
        p, q = stats.norm.pdf(m, 1, std), stats.norm.pdf(m, -1, std)
        return p * np.log2(2 * p / (p + q)) if p > 0 else 0.0

    return integrate.quad(integrand, 1 - 12 * std, 1 + 12 * std, epsabs=1e-12)[0]


def mixture_information(t, variance, samples, seed):
    """Monte Carlo value of I(M;X) for points in Gaussian noise, and its standard error."""
    rng = np.random.default_rng(seed)
    n, units = t.shape
    source = rng.integers(0, n, samples)
    m = t[source] + math.sqrt(variance) * rng.normal(size=(samples, units))
    distance = ((m[:, None, :] - t[None, :, :]) ** 2).sum(-1)
    own = distance[np.arange(samples), source]
    density = np.exp(-(distance - own[:, None]) / (2 * variance)).mean(1)
    values = -np.log2(density)
    return float(values.mean()), float(values.std() / math.sqrt(samples))
