"""Layers that hand their weights something else than their gradient, for rules that need inputs."""

from ._delta_descent import delta_gradient as delta_gradient
from ._delta_descent import delta_gradient_descent as delta_gradient_descent
from ._delta_descent import delta_linear as delta_linear
from ._delta_model import delta_layers as delta_layers
from ._memory_linear import memory_linear as memory_linear
