"""Seconds per epoch of MNIST training: nestax against a straightforward PyTorch loop.

    python benchmarks/information_plane.py [--epochs 3] [--rounds 5]

Same network (784-12-10-8-6-4-10, tanh), batches of 128, rate 1e-3, float32, same process, turn by
turn. Before any time is printed, both sides take the same steps from the same weights on the same
batches and must agree. The peers:

* AdamW: `torch.optim.AdamW` on images held in memory, indexed by a fresh permutation per epoch.
* MLP momentum: deep momentum written as a `torch.optim.Optimizer`, an MLP per tensor.

Needs PyTorch beside the experiments' packages, and MNIST (`nestax data list`).
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from nestax.runs.machine import machine
from nestax_studies import data
from nestax_studies.information_plane.arms import ARMS
from nestax_studies.information_plane.measure import as_images
from nestax_studies.information_plane.training import Images, Networks, Training

SIZES, BATCH, RATE = (784, 12, 10, 8, 6, 4, 10), 128, 1e-3
ALPHA, ETA, BETA, HIDDEN = 0.99, 0.0025, 0.9, 8


class DeepMomentum(torch.optim.Optimizer):
    """`nestax.optim.deep_momentum` at its defaults, gradients of the memory by autograd."""

    def __init__(self, parameters, memories):
        super().__init__(parameters, {})
        tensors = [p for group in self.param_groups for p in group["params"]]
        for p, memory in zip(tensors, memories, strict=True):
            self.state[p] = {
                "memory": [m.clone().requires_grad_() for m in memory],
                "initial": memory,
                "u": torch.zeros_like(p).ravel(),
                "c": torch.zeros_like(p).ravel(),
            }

    @staticmethod
    def _answer(memory, u, c):
        rms = c.square().mean().sqrt()
        key = torch.stack([u, c / rms if rms > 0 else c])
        return (memory[1] @ torch.tanh(memory[0] @ key))[0] - u

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                s, g = self.state[p], p.grad.ravel()
                rms = g.square().mean().sqrt()
                u = g / rms if rms > 0 else g
                with torch.enable_grad():
                    loss = (self._answer(s["memory"], s["u"], s["c"]) * u).mean()
                    slopes = torch.autograd.grad(loss, s["memory"])
                with torch.no_grad():
                    for m, m0, slope in zip(s["memory"], s["initial"], slopes, strict=True):
                        m.copy_(m0 + ALPHA * (m - m0) - ETA * slope)
                    s["c"].mul_(BETA).add_(u, alpha=1 - BETA)
                    s["u"].copy_(u)
                    said = rms * self._answer(s["memory"], s["u"], s["c"])
                    p.add_(said.view_as(p), alpha=RATE)


def torch_network(parameters):
    """The network of one nestax seed, as a torch module."""
    modules = []
    for layer in parameters:
        linear = torch.nn.Linear(layer.weight.shape[2], layer.weight.shape[1])
        linear.weight.data = torch.tensor(np.array(layer.weight[0]))
        linear.bias.data = torch.tensor(np.array(layer.bias[0]))
        modules += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*modules[:-1])


def torch_optimizer(name: str, network, networks: Networks):
    if name == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    initial = networks.optimizer[0].initial
    memories = [
        [torch.tensor(np.array(m[0])) for m in memory]
        for layer in initial
        for memory in (layer.weight, layer.bias)
    ]
    return DeepMomentum(network.parameters(), memories)


def torch_epoch(network, optimizer, images, labels, order) -> float:
    loss_of, total = torch.nn.CrossEntropyLoss(), 0.0
    batches = len(order) // BATCH
    for i in range(batches):
        batch = order[i * BATCH : (i + 1) * BATCH]
        optimizer.zero_grad()
        loss = loss_of(network(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total) / batches


def check(name: str, dataset: data.Dataset) -> float:
    """Largest relative difference of the weights after 20 common steps."""
    count = 20 * BATCH
    few = as_images(dataset.train)
    few = Images(few.pixels[:count], few.labels[:count], few.scale)
    training = Training(ARMS[name].make, SIZES, "tanh", BATCH)
    networks = training.init(jnp.arange(1), jnp.full(1, RATE))
    network = torch_network(networks.parameters)
    optimizer = torch_optimizer(name, network, networks)
    order = torch.tensor(np.array(training._order(jnp.int32(0), few))).ravel().long()
    images = torch.tensor(np.array(dataset.train.inputs[:count]))
    torch_epoch(
        network, optimizer, images, torch.tensor(dataset.train.labels[:count]).long(), order
    )
    done = training.advance(networks, 1, few, True)
    ours = np.concatenate([np.ravel(x) for layer in done.parameters for x in layer])
    theirs = np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main() -> None:
    parser = argparse.ArgumentParser(description="nestax against a straightforward PyTorch loop")
    parser.add_argument("--epochs", type=int, default=3, help="epochs per measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    options = parser.parse_args()
    dataset = data.load("mnist")
    train = as_images(dataset.train)
    images = torch.tensor(np.array(dataset.train.inputs))
    labels = torch.tensor(np.array(dataset.train.labels)).long()
    facts = machine()
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    print(f"{facts['system']}, {facts['cores']} cores, {versions}")
    for name, seeds, target in (("adamw", 1, 5.0), ("adamw", 8, 15.0), ("dmgd", 1, 10.0)):
        difference = check(name, dataset)
        if not difference < 1e-4:
            raise SystemExit(
                f"{name}: the two sides disagree by {difference:.1e}; no time is shown"
            )
        training = Training(ARMS[name].make, SIZES, "tanh", BATCH)
        networks = training.init(jnp.arange(seeds), jnp.full(seeds, RATE))
        network = torch_network(networks.parameters)
        optimizer = torch_optimizer(name, network, networks)
        networks = jax.block_until_ready(training.advance(networks, 1, train, True))

        def ours(state: Networks, training: Training = training) -> Networks:
            until = int(state.epoch) + options.epochs
            return jax.block_until_ready(training.advance(state, until, train, True))

        jax_seconds, torch_seconds = [], []
        for _ in range(options.rounds):
            began = time.perf_counter()
            networks = ours(networks)
            jax_seconds.append((time.perf_counter() - began) / options.epochs / seeds)
            began = time.perf_counter()
            torch_epoch(network, optimizer, images, labels, torch.randperm(len(labels)))
            torch_seconds.append(time.perf_counter() - began)
        mine, peer = statistics.median(jax_seconds), statistics.median(torch_seconds)
        ratios = [b / a for a, b in zip(jax_seconds, torch_seconds, strict=True)]
        print(
            f"{name:6} {seeds} network(s): nestax {1e3 * mine:7.1f} ms per epoch and network, "
            f"torch {1e3 * peer:7.1f} ms, ratio {peer / mine:5.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}), wanted {target:.0f}, "
            f"weights after 20 steps differ by {difference:.0e}"
        )


if __name__ == "__main__":
    main()
