"""The sinusoids and the network of `maml.py` for PyTorch."""

import numpy as np
import torch

TASKS, STEPS, RATE, META_RATE = 25, 10, 0.01, 1e-3


class Table:
    """All tasks; every step draws some of them."""

    def __init__(self, data: dict[str, np.ndarray]):
        self.x, self.y = torch.tensor(data["x"]), torch.tensor(data["y"])
        self.shots = self.x.shape[1] // 2

    def draw(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Numbers of the tasks; inputs and targets of support and query, tasks first."""
        picks = torch.randint(len(self.x), (TASKS,))
        x, y, n = self.x[picks], self.y[picks], self.shots
        return picks, (x[:, :n], y[:, :n], x[:, n:], y[:, n:])


def weights(data: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """Matrices (in, out) and biases, layer by layer."""
    return [torch.tensor(data[f"w{i}"]) for i in range(6)]


def network(data: dict[str, np.ndarray]) -> torch.nn.Sequential:
    sizes = [data[f"w{i}"].shape for i in (0, 2, 4)]
    first, second, third = (torch.nn.Linear(*size) for size in sizes)
    made = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), third)
    with torch.no_grad():
        for parameter, value in zip(made.parameters(), weights(data), strict=True):
            parameter.copy_(value.mT if value.ndim == 2 else value)
    return made


def report(picks: torch.Tensor, gradients: list) -> dict[str, np.ndarray]:
    """The gradient of a module's parameters, matrices turned to (in, out)."""
    found = {f"g{i}": g.detach().numpy().T.copy() for i, g in enumerate(gradients)}
    return {"picks": picks.numpy(), **found}
