"""Hypergradients written by hand in JAX."""

from bilevel_jax import by_hand, work
from serve import serve


def make(data, variant):
    name, method = variant.split(":")
    return work(*by_hand(name, method, data))


serve(make)
