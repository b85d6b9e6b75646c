"""MAML with learn2learn, as its README has it; imported as `learn2learn_alone` says."""

import learn2learn_alone  # noqa: F401
import torch
import torch.nn.functional as F
from learn2learn.algorithms.maml import MAML
from serve import Work, serve
from sinusoid_torch import META_RATE, RATE, STEPS, TASKS, Table, network, report


def make(data, variant):
    table, net = Table(data), network(data)
    maml = MAML(net, lr=RATE)
    outer = torch.optim.Adam(maml.parameters(), lr=META_RATE)

    def step():
        picks, tasks = table.draw()
        outer.zero_grad()
        for x, y, xq, yq in zip(*tasks, strict=True):
            learner = maml.clone()
            for _ in range(STEPS):
                learner.adapt(F.mse_loss(learner(x), y))
            (F.mse_loss(learner(xq), yq) / TASKS).backward()
        found = report(picks, [p.grad for p in maml.parameters()])
        outer.step()
        return found

    return Work(step)


serve(make)
