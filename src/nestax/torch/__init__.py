"""For users of PyTorch: trees of tensors, and JAX functions as functions of torch.

torch is imported when one of these is first called.
"""

from .function import torch_function as torch_function
from .module import jax_function as jax_function
from .trees import to_jax as to_jax
from .trees import to_torch as to_torch
