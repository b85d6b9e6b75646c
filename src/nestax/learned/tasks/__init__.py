"""Families of tasks: functions that return a `Family`, with data that the caller brings."""

from .convolutional import convnets as convnets
from .memories import associative as associative
from .networks import mlp_families as mlp_families
from .networks import mlps as mlps
from .quadratic import least_squares as least_squares
from .quadratic import quadratics as quadratics
from .regression import logistic as logistic
from .text import characters as characters
