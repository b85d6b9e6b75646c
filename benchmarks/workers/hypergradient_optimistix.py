"""Hypergradients with Optimistix and Lineax; 51 steps, of which 50 are updates."""

import jax
import lineax as lx
import optimistix as optx
from bilevel_jax import RATES, STEPS, TERMS, problem, work
from serve import serve


def make(data, variant):
    name, method = variant.split(":")
    inner, outer, slow, start = problem(name, data)
    if method == "unrolled":
        adjoint = optx.RecursiveCheckpointAdjoint()
    else:
        adjoint = optx.ImplicitAdjoint(linear_solver=lx.CG(rtol=0.0, atol=0.0, max_steps=TERMS))
    solver = optx.GradientDescent(RATES[name], rtol=0.0, atol=0.0)

    def validation(slow):
        solution = optx.minimise(
            lambda w, slow: inner(slow, w),
            solver,
            start,
            args=slow,
            max_steps=STEPS + 1,
            throw=False,
            adjoint=adjoint,
            tags=frozenset({lx.positive_semidefinite_tag}),
        )
        return outer(slow, solution.value)

    return work(jax.grad(validation), slow)


serve(make)
