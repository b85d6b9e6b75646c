"""Hypergradients with TorchOpt: `MetaSGD` unrolled, or `custom_root` around a loop of descent."""

import torch
import torchopt
from bilevel_torch import RATES, STEPS, TERMS, problem
from serve import Work, serve


class Weights(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        self.w = torch.nn.Parameter(start.clone())


def make(data, variant):
    name, method = variant.split(":")
    inner, outer, slow, start = problem(name, data)
    slow.requires_grad_()
    rate = RATES[name]

    def unrolled():
        net = Weights(start)
        descent = torchopt.MetaSGD(net, lr=rate)
        for _ in range(STEPS):
            descent.step(inner(slow, net.w))
        found = torch.autograd.grad(outer(slow, net.w), slow)[0]
        torchopt.stop_gradient(net)
        return found

    def stationarity(params, slow):
        return (torch.func.grad(inner, argnums=1)(slow, params[0]),)

    # Its Neumann series of `maxiter` has one term more.
    solver = (
        torchopt.linear_solve.solve_cg(maxiter=TERMS, rtol=0.0)
        if method == "cg"
        else torchopt.linear_solve.solve_inv(ns=True, maxiter=TERMS - 1, alpha=rate)
    )

    @torchopt.diff.implicit.custom_root(stationarity, argnums=1, solve=solver)
    def solve(params, slow):
        w = params[0].detach().clone().requires_grad_()
        for _ in range(STEPS):
            with torch.enable_grad():
                gradient = torch.autograd.grad(inner(slow, w), w)[0]
            with torch.no_grad():
                w -= rate * gradient
        return (w,)

    def implicit():
        (w,) = solve((start,), slow)
        return torch.autograd.grad(outer(slow, w), slow)[0]

    gradient = unrolled if method == "unrolled" else implicit
    return Work(lambda: {"g": gradient().detach().numpy()})


serve(make)
