"""What a call through `nestax.torch.torch_function` costs, beside JAX alone and torch alone.

    pip install ".[torch]"
    python benchmarks/torch_bridge.py [--rounds 2000]

A call computes a scalar and its gradient. `small`: the sum of the squared sines of 100 numbers.
`hypergradient`: a decay for each of 50 weights of a ridge regression on 200 samples, through 50
steps of gradient descent. `network`: the gradient of a module's loss, 1-64-64-1, batch 256, that
JAX computes by way of `jax_function`. float32; gradients are compared with torch's in float64
first. JAX and the bridge take turns call by call, so that a load on the machine falls on both
alike; torch follows, with one thread. Printed are medians over the calls.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import nestax as nx
from nestax.runs.machine import machine

TOLERANCE = 1e-4  # relative error of a gradient
Programs = dict[str, Callable[[], Any]]


def bridged(loss: Callable, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Forward and backward through the bridge."""
    function = nx.torch.torch_function(loss)

    def call() -> torch.Tensor:
        return torch.autograd.grad(function(tensor), tensor)[0]

    return call


def alone(loss: Callable, tensor: torch.Tensor) -> Callable[[], jax.Array]:
    """The same in JAX."""
    both, array = jax.jit(jax.value_and_grad(loss)), nx.torch.to_jax(tensor)
    return lambda: jax.block_until_ready(both(array))[1]


def native(loss: Callable, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The same in torch."""
    return lambda: torch.autograd.grad(loss(tensor), tensor)[0]


def small() -> tuple[Programs, torch.Tensor]:
    x = torch.randn(100, requires_grad=True)

    def of_jax(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(x) ** 2)

    def of_torch(x: torch.Tensor) -> torch.Tensor:
        return (torch.sin(x) ** 2).sum()

    return programs(of_jax, of_torch, x), native(of_torch, wide(x))()


def hypergradient() -> tuple[Programs, torch.Tensor]:
    x, y, log = torch.randn(200, 50), torch.randn(200), torch.zeros(50, requires_grad=True)
    xj, yj = nx.torch.to_jax((x, y))
    train, valid = slice(0, None, 2), slice(1, None, 2)

    def inner(log: Any, w: Any) -> Any:
        return jnp.mean((xj[train] @ w - yj[train]) ** 2) + jnp.sum(jnp.exp(log) * w**2)

    fit = nx.best_response(inner, optax.sgd(0.05), 50)

    def of_jax(log: jax.Array) -> jax.Array:
        return jnp.mean((xj[valid] @ fit(log, jnp.zeros(50)) - yj[valid]) ** 2)

    def of_torch(log: torch.Tensor) -> torch.Tensor:
        a, b = x.to(log.dtype), y.to(log.dtype)
        w = torch.zeros(50, dtype=log.dtype, requires_grad=True)
        for _ in range(50):
            loss = ((a[train] @ w - b[train]) ** 2).mean() + (log.exp() * w**2).sum()
            w = w - 0.05 * torch.autograd.grad(loss, w, create_graph=True)[0]
        return ((a[valid] @ w - b[valid]) ** 2).mean()

    return programs(of_jax, of_torch, log), native(of_torch, wide(log))()


def network() -> tuple[Programs, torch.Tensor]:
    net = torch.nn.Sequential(
        torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(),
        torch.nn.Linear(64, 1),
    )  # fmt: skip
    weights = {name: one.detach() for name, one in net.named_parameters()}
    x = torch.randn(256, 1)
    f, xj = nx.torch.jax_function(net), nx.torch.to_jax(x)
    w = torch.cat([one.flatten() for one in weights.values()]).requires_grad_()
    sizes = [one.numel() for one in weights.values()]

    def of_jax(w: jax.Array) -> jax.Array:
        parts = jnp.split(w, np.cumsum(sizes)[:-1])
        pairs = zip(weights.items(), parts, strict=True)
        return jnp.mean(f({name: p.reshape(tuple(one.shape)) for (name, one), p in pairs}, xj) ** 2)

    def of_torch(w: torch.Tensor) -> torch.Tensor:
        pairs = zip(weights.items(), w.split(sizes), strict=True)
        tree = {name: part.reshape(one.shape) for (name, one), part in pairs}
        return (torch.func.functional_call(net, tree, x.to(w.dtype)) ** 2).mean()

    return programs(of_jax, of_torch, w), native(of_torch, wide(w))()


def wide(x: torch.Tensor) -> torch.Tensor:
    return x.detach().double().requires_grad_()


def programs(of_jax: Callable, of_torch: Callable, tensor: torch.Tensor) -> Programs:
    return {
        "torch_function": bridged(of_jax, tensor),
        "JAX alone": alone(of_jax, tensor),
        "torch alone": native(of_torch, tensor),
    }


def error(found: Any, exact: torch.Tensor) -> float:
    return float(np.linalg.norm(np.asarray(found) - exact.numpy()) / np.linalg.norm(exact.numpy()))


def race(entries: Programs, exact: torch.Tensor, rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in entries}
    for name, call in entries.items():
        found = error(call(), exact)
        assert found < TOLERANCE, (name, found)
    last = entries["torch alone"]  # its turns are so long that others would lose theirs
    turns = {name: call for name, call in entries.items() if call is not last}
    for group, count in ((turns, rounds), ({"torch alone": last}, rounds // 10)):
        for _ in range(count):
            for name, call in group.items():
                began = time.perf_counter()
                call()
                times[name].append(1e6 * (time.perf_counter() - began))
    print("| program | µs per call | quartiles | more than JAX alone, µs | ratio |")
    print("| --- | --- | --- | --- | --- |")
    alone = statistics.median(times["JAX alone"])
    for name, taken in times.items():
        low, middle, high = statistics.quantiles(taken, n=4)
        print(
            f"| {name} | {middle:.0f} | {low:.0f} to {high:.0f} | {middle - alone:.0f} "
            f"| {middle / alone:.2f} |"
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description="what a call from torch into JAX costs")
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{machine()}, torch {torch.__version__}\n")
    for problem in (small, hypergradient, network):
        print(f"`{problem.__name__}`\n")
        race(*problem(), options.rounds)


if __name__ == "__main__":
    main()
