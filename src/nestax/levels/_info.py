"""What a run reports of each level: returned, never carried (rule R11)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_SHOWN = 5  # arrays of one field that are shown
_NUMBERS = ("loss", "gradient_norm", "inner_gradient", "residual")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class LevelInfo:
    """The report of a level's updates over a call of `Nest.step` or `Nest.run`.

    Arrays have a leading axis: the level's updates in time order. Then come runs side by side, if
    the state holds several, and for copied levels the copies. `jax.tree.map(lambda a: a[:, i],
    info)` is the report of run i. `info["name"]["loss"]` is `info["name"].loss`.

    Example:
        ```python
        w = nx.Level("w", lambda values, batch: (values["w"] - 3) ** 2, optax.sgd(0.25))
        nest = nx.Nest([w])
        state, info = nest.run(nest.init({"w": 1.0}, jax.random.key(0)), steps=3)
        print(info["w"].loss, info["w"].gradient_norm)  # [4.   1.   0.25] [4. 2. 1.]
        ```

    Attributes:
        loss: the loss that was differentiated, shape (updates, ...). For a level that copies share
            it is the mean over them; for a level that accumulates, the mean or (weighted) sum over
            its period.
        gradient_norm: Euclidean norm of the gradient handed to the optimizer; None if the nest was
            made with `norms=False`.
        user: the info that the objective returned beside its loss. None for levels that accumulate,
            and in place of leaves that the level's `keep` has put into its value.
        inner_gradient: under Implicit, norm of the inner levels' gradients. It is 0 where the
            implicit function theorem holds.
        residual: under Implicit, relative residual of the linear system.
        products: under Implicit, number of products with the matrix that the solver needed.
        diverged: under Implicit, whether the solver diverged.
        at_rest: under Implicit, the share of the inner gradient's norm in weights that their
            optimizer leaves exactly unchanged; -1 if it is not measured.
        moving: under `Implicit(condition="update")`, the change of the inner weights by the next
            update, relative to their norm; -1 under the other condition.
        gradient: always None; for internal use.
    """

    loss: Any
    gradient_norm: Any = None
    user: Any = None
    inner_gradient: Any = None
    residual: Any = None
    products: Any = None
    diverged: Any = None
    at_rest: Any = None
    moving: Any = None
    gradient: Any = None

    def __getitem__(self, field: str) -> Any:
        return getattr(self, field)

    def __repr__(self) -> str:
        """What was reported, a line each: name, dtype and shape, means of first and last update."""
        lines = []
        for field in dataclasses.fields(self):
            leaves = jax.tree_util.tree_leaves_with_path(getattr(self, field.name))
            for path, leaf in leaves[:_SHOWN]:
                lines.append(f"  {field.name}{jax.tree_util.keystr(path)}: {_summary(leaf)}")
            if len(leaves) > _SHOWN:
                lines.append(f"  {field.name}: and {len(leaves) - _SHOWN} more arrays")
        return "\n".join(["LevelInfo", *lines])

    def scalars(self, axes: int) -> dict[str, np.ndarray]:
        """The scalar reports as numpy arrays with a leading axis of updates.

        Args:
            axes: number of axes between updates and the shape of a leaf of `user`: one for runs
                side by side, plus one for copies.

        Returns:
            A dict of the losses, norms and diagnostics of an implicit flow by field name, and the
            scalars of `user` by their paths, such as "accuracy" or "aux/kl".
        """
        found = {name: getattr(self, name) for name in _NUMBERS}
        found = {name: np.asarray(a) for name, a in found.items() if a is not None}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.user):
            if not _is_number(leaf) or leaf.ndim != 1 + axes:
                continue
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "user"
            found[f"user/{name}" if name in _NUMBERS else name] = np.asarray(leaf)
        return found

    def frame(self) -> Any:
        """The updates as a pandas `DataFrame`, with one row each in time order.

        Its columns are the losses, the norms of gradients, the diagnostics of an implicit flow, and
        the scalars of `user` by their paths, such as "accuracy" or "aux/kl". With copies the
        columns have two levels, the name and the number of the copy: `frame["loss"].mean(axis=1)`
        is the mean over copies. A quantity that copies share has "" in place of the number. Vectors
        in `user` are shown in the same way, by entries.

        Returns:
            The `DataFrame`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
            ValueError: there are both copies and runs side by side: a table has room for one of
                these axes.
        """
        if np.ndim(self.loss) > 2:
            raise ValueError(
                f"LevelInfo.frame: the loss has shape {list(np.shape(self.loss))}, updates x runs "
                "x copies, and a table has one axis beside updates; give it one run: "
                "jax.tree.map(lambda a: a[:, 0], info).frame()"
            )
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "LevelInfo.frame needs pandas; install it with: pip install pandas"
            ) from error
        found = {**self.scalars(0), **self.scalars(1)}
        flat = {}
        for name, array in found.items():
            if array.ndim == 1:
                flat[name, ""] = array
            else:
                flat |= {(name, number): array[:, number] for number in range(array.shape[1])}
        index = pandas.RangeIndex(len(self.loss), name="update")
        if all(array.ndim == 1 for array in found.values()):
            return pandas.DataFrame({name: a for (name, _), a in flat.items()}, index)
        frame = pandas.DataFrame(dict(enumerate(flat.values())), index)
        frame.columns = pandas.MultiIndex.from_tuples(list(flat), names=("name", "copy"))
        return frame


def _is_number(leaf: Any) -> bool:
    if not hasattr(leaf, "ndim") or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    return jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool


def _summary(leaf: Any) -> str:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return repr(leaf)
    text = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    known = isinstance(leaf, (np.ndarray, jax.Array)) and not isinstance(leaf, Tracer)
    if not known or not leaf.size or leaf.dtype == bool or leaf.ndim == 0:
        return text
    first, last = (np.mean(np.asarray(leaf[i], np.float64)) for i in (0, -1))
    return f"{text}, {first:.4g} to {last:.4g}"
