"""For users of PyTorch: trees of tensors, JAX functions as functions of torch, and optax
transformations as its optimizers.

torch is imported when one of these is first called.
"""

from .function import torch_function as torch_function
from .module import jax_function as jax_function
from .optimizer import optimizer as optimizer
from .trees import to_jax as to_jax
from .trees import to_torch as to_torch
