"""Hypergradients with nestax: `best_response` unrolled, or `hypergradient` where it ends."""

import jax
import optax
from bilevel_jax import RATES, STEPS, TERMS, problem, work
from serve import serve

import nestax as nx


def make(data, variant):
    name, method = variant.split(":")
    inner, outer, slow, start = problem(name, data)
    descent = optax.sgd(RATES[name])
    if method == "unrolled":
        response = nx.best_response(inner, descent, STEPS)
        return work(jax.grad(lambda slow: outer(slow, response(slow, start))), slow)
    solver = nx.CG(TERMS) if method == "cg" else nx.Neumann(TERMS, RATES[name])
    response = nx.best_response(inner, descent, STEPS, nx.Direct())
    implicit = nx.hypergradient(outer, inner, solver)
    return work(lambda slow: implicit(slow, response(slow, start)), slow)


serve(make)
