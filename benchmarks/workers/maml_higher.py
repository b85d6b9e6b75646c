"""MAML with higher, as its README has it."""

import higher
import torch
import torch.nn.functional as F
from serve import Work, serve
from sinusoid_torch import META_RATE, RATE, STEPS, TASKS, Table, network, report


def make(data, variant):
    table, net = Table(data), network(data)
    inner = torch.optim.SGD(net.parameters(), lr=RATE)
    outer = torch.optim.Adam(net.parameters(), lr=META_RATE)

    def step():
        picks, tasks = table.draw()
        outer.zero_grad()
        for x, y, xq, yq in zip(*tasks, strict=True):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fnet, diffopt):
                for _ in range(STEPS):
                    diffopt.step(F.mse_loss(fnet(x), y))
                (F.mse_loss(fnet(xq), yq) / TASKS).backward()
        found = report(picks, [p.grad for p in net.parameters()])
        outer.step()
        return found

    return Work(step)


serve(make)
