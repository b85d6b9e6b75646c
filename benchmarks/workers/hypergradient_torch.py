"""Hypergradients written by hand in PyTorch: autograd, or torch.func compiled as a whole."""

import torch
from bilevel_torch import RATES, STEPS, cg, neumann, problem
from serve import Work, serve


def autograd(name, method, data):
    inner, outer, slow, start = problem(name, data)
    slow.requires_grad_()
    rate = RATES[name]

    def solve(product, b):
        return cg(product, b) if method == "cg" else neumann(product, b, rate)

    def unrolled():
        w = start.clone().requires_grad_()
        for _ in range(STEPS):
            w = w - rate * torch.autograd.grad(inner(slow, w), w, create_graph=True)[0]
        return torch.autograd.grad(outer(slow, w), slow)[0]

    def implicit():
        w = start.clone().requires_grad_()
        for _ in range(STEPS):
            gradient = torch.autograd.grad(inner(slow, w), w)[0]
            with torch.no_grad():
                w -= rate * gradient
        gradient = torch.autograd.grad(inner(slow, w), w, create_graph=True)[0]
        pull = torch.autograd.grad(outer(slow, w), w)[0]

        def product(v):
            return torch.autograd.grad(gradient, w, v, retain_graph=True)[0]

        return -torch.autograd.grad(gradient, slow, solve(product, pull))[0]

    return unrolled if method == "unrolled" else implicit


def compiled(name, method, data):
    inner, outer, slow, start = problem(name, data)
    rate = RATES[name]
    slope = torch.func.grad(inner, argnums=1)

    def descend(slow):
        w = start
        for _ in range(STEPS):
            w = w - rate * slope(slow, w)
        return w

    def unrolled(slow):
        return torch.func.grad(lambda slow: outer(slow, descend(slow)))(slow)

    def implicit(slow):
        w = descend(slow)
        pull = torch.func.grad(outer, argnums=1)(slow, w)

        def product(v):
            return torch.func.grad(lambda w: (slope(slow, w) * v).sum())(w)

        v = cg(product, pull) if method == "cg" else neumann(product, pull, rate)
        return -torch.func.grad(lambda slow: (slope(slow, w) * v).sum())(slow)

    program = torch.compile(unrolled if method == "unrolled" else implicit)
    return lambda: program(slow)


def make(data, variant):
    name, method, *how = variant.split(":")
    gradient = (compiled if how else autograd)(name, method, data)
    return Work(lambda: {"g": gradient().numpy()})


serve(make)
