"""Families of tasks: functions that return a `Family`, with data that the caller brings."""

from .networks import mlp_families as mlp_families
from .networks import mlps as mlps
from .quadratic import least_squares as least_squares
from .quadratic import quadratics as quadratics
