"""MAML written by hand with torch.func, one compiled step, Adam included."""

import torch
from serve import Work, serve
from sinusoid_torch import META_RATE, RATE, STEPS, Table, weights
from torch.func import grad, vmap


def error(w, x, y):
    hidden = torch.relu(x @ w[0] + w[1])
    hidden = torch.relu(hidden @ w[2] + w[3])
    return ((hidden @ w[4] + w[5] - y) ** 2).mean()


def adapted(w, x, y, xq, yq):
    for _ in range(STEPS):
        w = [a - RATE * b for a, b in zip(w, grad(error)(w, x, y), strict=True)]
    return error(w, xq, yq)


def meta(w, *tasks):
    return vmap(adapted, (None, 0, 0, 0, 0))(w, *tasks).mean()


def advance(w, first, second, count, *tasks):
    gradient = grad(meta)(w, *tasks)
    count = count + 1
    first = [0.9 * m + 0.1 * g for m, g in zip(first, gradient, strict=True)]
    second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradient, strict=True)]
    scale, root = 1 - 0.9**count, torch.sqrt(1 - 0.999**count)
    w = [
        a - META_RATE / scale * m / (torch.sqrt(v) / root + 1e-8)
        for a, m, v in zip(w, first, second, strict=True)
    ]
    return w, first, second, count, gradient


def make(data, variant):
    table, begin = Table(data), weights(data)
    program = torch.compile(advance) if variant == "compile" else advance
    zeros = [torch.zeros_like(a) for a in begin]
    held = [begin, zeros, zeros, torch.zeros(())]

    def step():
        picks, tasks = table.draw()
        *held[:], gradient = program(*held, *tasks)
        return {"picks": picks.numpy(), **{f"g{i}": g.numpy() for i, g in enumerate(gradient)}}

    return Work(step)


serve(make)
