"""Hypergradients with JAXopt. It has no Neumann series: that solver is written here."""

import functools

import jax
import jaxopt
from bilevel_jax import RATES, STEPS, TERMS, problem, work
from jaxopt import linear_solve
from serve import serve


def make(data, variant):
    name, method = variant.split(":")
    inner, outer, slow, start = problem(name, data)
    rate = RATES[name]

    def neumann(product, b):
        def step(_, carry):
            term, total = carry
            term = term - rate * product(term)
            return term, total + term

        return rate * jax.lax.fori_loop(0, TERMS - 1, step, (b, b))[1]

    cg = functools.partial(linear_solve.solve_cg, maxiter=TERMS, tol=0.0)
    solver = jaxopt.GradientDescent(
        lambda w, slow: inner(slow, w),
        stepsize=rate,
        maxiter=STEPS,
        tol=0.0,
        acceleration=False,
        implicit_diff=method != "unrolled",
        implicit_diff_solve=cg if method == "cg" else neumann,
    )
    return work(jax.grad(lambda slow: outer(slow, solver.run(start, slow).params)), slow)


serve(make)
