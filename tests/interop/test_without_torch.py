"""PyTorch is optional: what those read who do not have it."""

import subprocess
import sys

import jax.numpy as jnp
import optax
import pytest

import nestax as nx


@pytest.mark.parametrize(
    "call",
    [
        lambda: nx.torch.to_jax({"a": 1}),
        lambda: nx.torch.to_torch(jnp.ones(2)),
        lambda: nx.torch.torch_function(jnp.sin),
        lambda: nx.torch.jax_function(jnp.sin),
        lambda: nx.torch.optimizer(optax.sgd(0.1), []),
    ],
)
def test_without_torch_the_line_that_installs_it_is_named(monkeypatch, call):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'needs PyTorch.*pip install "nestax\[torch\]"'):
        call()


def test_only_a_call_imports_torch():
    program = "import sys, nestax; nestax.torch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
