"""equinox layers with delta gradients. Imported when first used: equinox is slow to import."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import Scalar
from ._delta_descent import Convolution, DeltaRule, delta_layer


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Fixed:
    """A Python number that is part of the model's structure, not a leaf of it."""

    value: float


class DeltaLinear(eqx.nn.Linear):
    """`equinox.nn.Linear` whose weight's gradient is the delta gradient."""

    rate: Any
    decay: Any
    rule: DeltaRule = eqx.field(static=True)

    def __init__(self, layer: eqx.nn.Linear, rate: Scalar, decay: Scalar, rule: DeltaRule):
        """Takes over the fields of `layer`."""
        _adopt(self, layer, eqx.nn.Linear)
        self.rate, self.decay, self.rule = _held(rate), _held(decay), rule

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        """(in,) -> (out,), or scalars, as the layer it stands for."""
        del key
        expected = () if self.in_features == "scalar" else (self.in_features,)
        if x.shape != expected:
            raise ValueError(
                f"DeltaLinear: an input of shape {expected} is expected, got {x.shape}; "
                "batch with jax.vmap"
            )
        rows = x.reshape(1, -1)
        y = delta_layer(self.weight, rows, _number(self.rate), _number(self.decay), self.rule)[0]
        if self.bias is not None:
            y = y + self.bias
        return y[0] if self.out_features == "scalar" else y


class DeltaConv(eqx.nn.Conv):
    """`equinox.nn.Conv` whose weight's gradient is the delta gradient over patches."""

    rate: Any
    decay: Any
    rule: DeltaRule = eqx.field(static=True)

    def __init__(self, layer: eqx.nn.Conv, rate: Scalar, decay: Scalar, rule: DeltaRule):
        """Takes over the fields of `layer`."""
        if layer.groups != 1:
            raise ValueError(
                f"delta_layers: a convolution with groups={layer.groups} has one objective per "
                "group, which is not offered; leave the layer out by `where`"
            )
        _adopt(self, layer, eqx.nn.Conv)
        # Any other padding than zeros is applied before, and its derivative is left to JAX.
        padding = layer.padding if layer.padding_mode == "ZEROS" else "VALID"
        if not isinstance(padding, str):
            padding = tuple((int(low), int(high)) for low, high in padding)
        geometry = Convolution(layer.stride, padding, layer.dilation)
        self.rate, self.decay = _held(rate), _held(decay)
        self.rule = dataclasses.replace(rule, convolution=geometry)

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        """(in, ...) -> (out, ...), as the layer it stands for."""
        del key
        if x.ndim != self.num_spatial_dims + 1:
            raise ValueError(
                f"DeltaConv: an input (channels, {self.num_spatial_dims} dimensions) is expected, "
                f"got {x.shape}; batch with jax.vmap"
            )
        if self.padding_mode != "ZEROS":
            x = self._nonzero_pad(x)
        rate, decay = _number(self.rate), _number(self.decay)
        y = delta_layer(self.weight, x[None], rate, decay, self.rule)[0]
        return y if self.bias is None else y + self.bias


def converted(
    model: PyTree,
    rate: Scalar,
    decay: Scalar,
    where: Any,
    reduction: str,
    explicit: bool,
) -> PyTree:
    """The model with delta layers; see `delta_layers`."""
    rule = DeltaRule(reduction, explicit)

    def convert(layer: Any) -> Any:
        if isinstance(layer, eqx.nn.Linear):
            return DeltaLinear(layer, rate, decay, rule)
        if isinstance(layer, eqx.nn.Conv):
            return DeltaConv(layer, rate, decay, rule)
        raise ValueError(
            "delta_layers: `where` must name equinox.nn.Linear or equinox.nn.Conv layers, "
            f"got {type(layer).__name__}"
        )

    if where is not None and not callable(where):
        raise ValueError(
            "delta_layers: where must be a function from the model to its layer or layers, or None "
            f"for all, got {where!r:.60}"
        )
    if where is not None:
        return eqx.tree_at(where, model, replace_fn=convert)
    return jax.tree.map(
        lambda node: convert(node) if _is_layer(node) else node, model, is_leaf=_is_layer
    )


def _is_layer(node: Any) -> bool:
    return isinstance(node, (eqx.nn.Linear, eqx.nn.Conv))


def _adopt(new: Any, layer: Any, base: type) -> None:
    if type(layer).__call__ not in (base.__call__, type(new).__call__):
        raise ValueError(
            f"delta_layers: {type(layer).__name__} computes something else than "
            f"equinox.nn.{base.__name__}, which its delta layer would replace; leave it out by "
            "`where`, or call delta_linear in it"
        )
    for field in dataclasses.fields(base):
        setattr(new, field.name, getattr(layer, field.name))


def _held(number: Any) -> Any:
    if isinstance(number, _Fixed):
        return number
    known = isinstance(number, (int, float, np.number, np.ndarray))
    return _Fixed(float(number)) if known else number


def _number(held: Any) -> Any:
    return held.value if isinstance(held, _Fixed) else held
