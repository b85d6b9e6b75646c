"""MAML with learn2learn, as its README has it.

Its package imports compiled data sets and torchvision, which MAML does not need and which do not
build here; where that fails, MAML's own module is imported unchanged from an empty package.
"""

import importlib.util
import os
import sys
import types

import torch
import torch.nn.functional as F
from serve import Work, serve
from sinusoid_torch import META_RATE, RATE, STEPS, TASKS, Table, network, report


def maml_class():
    try:
        from learn2learn.algorithms import MAML
    except ImportError:
        for name in [name for name in sys.modules if name.startswith("learn2learn")]:
            del sys.modules[name]
        spec = importlib.util.find_spec("learn2learn")
        assert spec is not None and spec.origin is not None
        home = os.path.dirname(spec.origin)
        for name, folder in (
            ("learn2learn", home),
            ("learn2learn.algorithms", home + "/algorithms"),
        ):
            module = types.ModuleType(name)
            module.__path__ = [folder]
            sys.modules[name] = module
        from learn2learn.algorithms.maml import MAML
    return MAML


MAML = maml_class()


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
