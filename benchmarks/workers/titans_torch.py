"""A layer of titans-pytorch, forward and backward; a worker of `delta_rule.py`.

    PYTHON titans_torch.py '{"time": 4096, "heads": 4, "size": 64, "memory": "linear", ...}'

One line of JSON when it is ready; then every number read on stdin is answered by the seconds of so
many steps, and "threads N" by nothing but doing so.
"""

import json
import sys
import time

import titans_pytorch
import torch


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.manual_seed(0)
    size, width = asked["size"], asked["heads"] * asked["size"]
    linear = asked["memory"] == "linear"
    layer = titans_pytorch.NeuralMemory(
        dim=width,
        heads=asked["heads"],
        dim_head=size,
        chunk_size=asked["chunk"],
        batch_size=asked["batch"],
        model=titans_pytorch.MemoryMLP(size, depth=1 if linear else 2, expansion_factor=2.0),
        mem_model_norm_add_residual=not linear,
        qk_rmsnorm=True,
        default_step_transform_max_lr=1e-2,
    )
    x = torch.randn(1, asked["time"], width, requires_grad=True)
    weight = torch.randn(1, asked["time"], width)

    def step() -> None:
        layer.zero_grad()
        x.grad = None
        read, _ = layer(x)
        (read * weight).sum().backward()

    step()
    parameters = sum(p.numel() for p in layer.parameters())
    told = {"torch": torch.__version__, "finite": bool(x.grad.isfinite().all())}  # type: ignore
    print(json.dumps({**told, "parameters": parameters}), flush=True)
    for line in sys.stdin:
        if line.startswith("threads"):
            torch.set_num_threads(int(line.split()[1]))
            continue
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
