"""The two problems of `hypergradient.py` for PyTorch."""

import torch
import torch.nn.functional as F

STEPS, TERMS = 50, 20
RATES = {"l2": 0.5, "clean": 1.0}
DECAY = 1e-2


def problem(name, data):
    """(inner, outer, slow, start): objectives of (slow, fast), and where to begin."""
    x, y, xv, yv = (torch.tensor(data[key]) for key in ("x", "y", "xv", "yv"))
    if name == "l2":

        def inner(slow, fast):
            fit = F.binary_cross_entropy_with_logits(x @ fast, y)
            return fit + (slow.exp() * fast**2).sum() / 2

        def outer(slow, fast):
            return F.binary_cross_entropy_with_logits(xv @ fast, yv)
    else:
        y, yv = y.long(), yv.long()

        def inner(slow, fast):
            losses = F.cross_entropy(x @ fast, y, reduction="none")
            return (slow.sigmoid() * losses).mean() + DECAY * (fast**2).sum() / 2

        def outer(slow, fast):
            return F.cross_entropy(xv @ fast, yv)

    return inner, outer, torch.tensor(data["slow"]), torch.tensor(data["start"])


def cg(product, b):
    """`TERMS` steps of conjugate gradients."""
    x, r, p, rr = torch.zeros_like(b), b, b, (b * b).sum()
    for _ in range(TERMS):
        q = product(p)
        alpha = rr / (p * q).sum()
        x, r = x + alpha * p, r - alpha * q
        after = (r * r).sum()
        p, rr = r + after / rr * p, after
    return x


def neumann(product, b, rate):
    """`TERMS` terms of the Neumann series."""
    term = total = b
    for _ in range(TERMS - 1):
        term = term - rate * product(term)
        total = total + term
    return rate * total
