"""MAML with TorchOpt: `MetaSGD` over a loop of tasks, or its functional optimizer under vmap."""

import torch
import torch.nn.functional as F
import torchopt
from serve import Work, serve
from sinusoid_torch import META_RATE, RATE, STEPS, Table, network, report
from torch.func import functional_call, grad, vmap


def meta_sgd(data):
    table, net = Table(data), network(data)
    inner = torchopt.MetaSGD(net, lr=RATE)
    outer = torch.optim.Adam(net.parameters(), lr=META_RATE)

    def step():
        picks, tasks = table.draw()
        outer.zero_grad()
        begin = torchopt.extract_state_dict(net, by="reference")
        begin_inner = torchopt.extract_state_dict(inner, by="reference")
        losses = []
        for x, y, xq, yq in zip(*tasks, strict=True):
            for _ in range(STEPS):
                inner.step(F.mse_loss(net(x), y))
            losses.append(F.mse_loss(net(xq), yq))
            torchopt.recover_state_dict(net, begin)
            torchopt.recover_state_dict(inner, begin_inner)
        torch.stack(losses).mean().backward()
        found = report(picks, [p.grad for p in net.parameters()])
        outer.step()
        return found

    return Work(step)


def functional(data):
    table, net = Table(data), network(data)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    inner, outer = torchopt.sgd(lr=RATE), torchopt.adam(lr=META_RATE)
    held = [parameters, outer.init(parameters)]

    def loss(parameters, x, y):
        return F.mse_loss(functional_call(net, parameters, (x,)), y)

    def adapted(parameters, x, y, xq, yq):
        state = inner.init(parameters)
        for _ in range(STEPS):
            updates, state = inner.update(grad(loss)(parameters, x, y), state, inplace=False)
            parameters = torchopt.apply_updates(parameters, updates, inplace=False)
        return loss(parameters, xq, yq)

    def meta(parameters, *tasks):
        return vmap(adapted, (None, 0, 0, 0, 0))(parameters, *tasks).mean()

    def step():
        picks, tasks = table.draw()
        gradient = grad(meta)(held[0], *tasks)
        updates, held[1] = outer.update(gradient, held[1], inplace=False)
        held[0] = torchopt.apply_updates(held[0], updates, inplace=False)
        return report(picks, list(gradient.values()))

    return Work(step)


def make(data, variant):
    return functional(data) if variant == "vmap" else meta_sgd(data)


serve(make)
