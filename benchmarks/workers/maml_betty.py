"""MAML with Betty: `IterativeProblem` unrolled within one inner loop, tasks by accumulation.

Release 0.2.1 fails in `Engine(...)`, for it patches the optimizer a second time, and would fail in
the first step for want of an attribute. The variant `mended` leaves the first patch out, has the
attribute, and forgets the optimizer's state between tasks, without which every task would be
connected to all before it.
"""

import torch
import torch.nn.functional as F
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem, IterativeProblem
from serve import Work, serve
from sinusoid_torch import META_RATE, RATE, STEPS, TASKS, Table, network, report


class Inner(IterativeProblem):
    def forward(self, x):
        return self.fmodule(self.params, self.buffers, x)

    def training_step(self, batch):
        x, y = batch
        return F.mse_loss(self(x), y)

    def on_inner_loop_start(self):
        self.params = tuple(p.clone() for p in self.outer.module.parameters())


class Mended(Inner):
    _fp16 = False

    def patch_everything(self):
        assert self.train_data_loader is not None
        self.train_data_loader = [self.patch_data_loader(it) for it in self.train_data_loader]

    def on_inner_loop_start(self):
        super().on_inner_loop_start()
        self.optimizer.state = [{} for _ in self.params]


class Outer(ImplicitProblem):
    def training_step(self, batch):
        x, y = batch
        return F.mse_loss(self.inner(x), y)

    def grad_callback(self):
        if self.count % TASKS == 0:
            self.seen = [p.grad.clone() for p in self.module.parameters()]


def make(data, variant):
    table, net = Table(data), network(data)
    shown = {}

    def support():
        while True:
            shown["picks"], tasks = table.draw()
            for x, y, xq, yq in zip(*tasks, strict=True):
                shown["query"] = (xq, yq)
                for _ in range(STEPS):
                    yield x, y

    def query():
        while True:
            yield shown["query"]

    follower = network(data)
    inner = (Mended if variant == "mended" else Inner)(
        name="inner",
        module=follower,
        optimizer=torch.optim.SGD(follower.parameters(), lr=RATE),
        train_data_loader=support(),
        config=Config(unroll_steps=STEPS, retain_graph=True),
    )
    outer = Outer(
        name="outer",
        module=net,
        optimizer=torch.optim.Adam(net.parameters(), lr=META_RATE),
        train_data_loader=query(),
        config=Config(first_order=False, gradient_accumulation=TASKS),
    )
    engine = Engine(
        config=EngineConfig(train_iters=TASKS * STEPS),
        problems=[outer, inner],
        dependencies={"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
    )

    def step():
        engine.run()
        return report(shown["picks"], outer.seen)

    return Work(step)


serve(make)
