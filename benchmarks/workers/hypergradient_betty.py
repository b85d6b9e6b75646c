"""Hypergradients with Betty: two problems and an engine that runs one inner loop a step.

Release 0.2.1 takes the wrong residual in its CG and cannot build an unrolled problem.
"""

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem, IterativeProblem
from bilevel_torch import RATES, STEPS, TERMS, problem
from serve import Work, serve


class Holder(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(value.clone())

    def forward(self):
        return self.value


def make(data, variant):
    name, method = variant.split(":")
    objective, validation, slow, start = problem(name, data)
    kind = IterativeProblem if method == "unrolled" else ImplicitProblem

    class Inner(kind):
        def training_step(self, batch):
            return objective(self.outer(), self.module())

        def on_inner_loop_start(self):
            self.module.value.data.copy_(start)

    class Outer(ImplicitProblem):
        def training_step(self, batch):
            return validation(self.module(), self.inner())

        def grad_callback(self):
            self.seen = self.module.value.grad.clone()

    fast, meta = Holder(start), Holder(slow)
    solver = {
        "cg": {"type": "cg", "cg_iterations": TERMS},
        "neumann": {
            "type": "neumann",
            "neumann_iterations": TERMS - 1,
            "neumann_alpha": RATES[name],
        },
        "unrolled": {"retain_graph": True},
    }[method]
    inner = Inner(
        name="inner",
        module=fast,
        optimizer=torch.optim.SGD(fast.parameters(), lr=RATES[name]),
        train_data_loader=[(torch.zeros(()),)],
        config=Config(unroll_steps=STEPS, **solver),
    )
    outer = Outer(
        name="outer",
        module=meta,
        optimizer=torch.optim.SGD(meta.parameters(), lr=0.0),
        train_data_loader=[(torch.zeros(()),)],
        config=Config(first_order=method != "unrolled"),
    )
    engine = Engine(
        config=EngineConfig(train_iters=STEPS),
        problems=[outer, inner],
        dependencies={"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
    )

    def step():
        engine.run()
        return {"g": outer.seen.numpy()}

    return Work(step)


serve(make)
