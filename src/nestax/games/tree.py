"""A tree of branches: where each came from, what was chosen, and where it ended."""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

FILE = "tree.npz"
ARRAYS = ("vector", "losses", "start", "direction")


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """One branch of a `Tree`.

    Attributes:
        parent: number of the branch that it grew from; -1 for the root.
        path: the choices from the root to here, its fingerprint. "2-" is against direction 2.
            Directions are numbered from the most negative eigenvalue or the largest exponent.
        vector: where it ended, the moving numbers of the point, shape (n,); for a waiting branch
            where it begins.
        losses: the losses there, one for each player or a single one; may be empty.
        rate: eigenvalue (ridge rider) or exponent (its generalization) along which it set out; nan
            for the root.
        status: "split": it has branches of its own. "leaf": it ended. "waiting": not run yet.
            "endless": the ridge had not ended after the allowed steps. "unsettled": the descent
            after the ridge had not. "lost": a number became infinite or NaN.
        start: where it begins, shape (n,).
        direction: unit vector along which it set out, shape (n,); zeros for the root.
    """

    parent: int
    path: tuple[str, ...]
    vector: np.ndarray
    losses: np.ndarray
    rate: float
    status: str
    start: np.ndarray
    direction: np.ndarray

    @property
    def depth(self) -> int:
        """Number of choices from the root."""
        return len(self.path)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tree:
    """Branches in the order in which they were made; the root is the first.

    Made by `ridge_rider` and `generalized_ridge_rider`.

    Attributes:
        branches: all branches; a parent comes before its branches.
        unravel: a branch's vector -> the point as a pytree.
    """

    branches: tuple[Branch, ...]
    unravel: Callable[[Any], Any]

    def __repr__(self) -> str:
        depth = max(branch.depth for branch in self.branches)
        count: dict[str, int] = {}
        for branch in self.branches:
            count[branch.status] = count.get(branch.status, 0) + 1
        shown = ", ".join(f"{number} {status}" for status, number in count.items())
        return f"Tree({len(self.branches)} branches, depth {depth}: {shown})"

    @property
    def leaves(self) -> tuple[Branch, ...]:
        """The branches that ended, without those that are waiting, lost or unfinished."""
        return tuple(branch for branch in self.branches if branch.status == "leaf")

    @property
    def waiting(self) -> tuple[int, ...]:
        """The numbers of the branches that were not run yet."""
        return tuple(i for i, branch in enumerate(self.branches) if branch.status == "waiting")

    def point(self, branch: Branch) -> Any:
        """Where a branch ended, as a pytree like the point that the tree began from.

        Args:
            branch: of this tree.

        Returns:
            The pytree.
        """
        return self.unravel(branch.vector)

    def distinct(
        self, tolerance: float = 1e-2, by: Callable[[Any], Any] | None = None
    ) -> tuple[Branch, ...]:
        """One leaf for each of the different ends.

        Leaves are taken in order; one counts as new if it is further than `tolerance` from all that
        were new before it.

        Args:
            tolerance: largest Euclidean distance of two ends that count as one.
            by: `point -> array` to compare instead of the moving numbers, such as the players'
                probabilities where the values are logits that run to infinity.

        Returns:
            The first leaf of each group, in the tree's order.

        Raises:
            ValueError: tolerance below 0.
        """
        if not tolerance >= 0:
            raise ValueError(f"distinct: tolerance is at least 0, got {tolerance}")
        found: list[tuple[Branch, np.ndarray]] = []
        for leaf in self.leaves:
            here = leaf.vector if by is None else np.ravel(np.asarray(by(self.point(leaf))))
            if all(np.linalg.norm(here - other) > tolerance for _, other in found):
                found.append((leaf, here))
        return tuple(leaf for leaf, _ in found)

    def save(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        """Writes the tree to a folder, as one file that appears complete or not at all.

        Args:
            folder: made if there is none; an older tree in it is replaced.
            settings: numbers and words that `load` compares.

        Raises:
            RunError: the file cannot be written.
        """
        from ..runs.files import refusals, write_atomically

        told = [[b.parent, list(b.path), b.status] for b in self.branches]
        text = json.dumps({"settings": dict(settings or {}), "branches": told})
        arrays: dict[str, Any] = {
            name: np.stack([np.asarray(getattr(b, name)) for b in self.branches])
            for name in (*ARRAYS, "rate")
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, json=np.frombuffer(text.encode(), np.uint8))
        with refusals(Path(folder)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(folder) / FILE, buffer.getvalue())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        unravel: Callable[[Any], Any],
        settings: Mapping[str, Any] | None = None,
    ) -> "Tree":
        """Reads a tree that `save` wrote.

        Args:
            folder: where it was written.
            unravel: as the attribute; a file holds only numbers.
            settings: compared with those that were saved.

        Returns:
            The tree.

        Raises:
            ValueError: there is no tree, its file is damaged, or it was made with other settings.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"there is no tree in {folder}: it has no file {FILE}")
        try:
            # Arrays only, no pickled objects.
            with path.open("rb") as opened, np.lib.npyio.NpzFile(opened) as file:
                arrays = {name: file[name] for name in (*ARRAYS, "rate", "json")}
            told = json.loads(arrays.pop("json").tobytes())
        except (ValueError, KeyError, EOFError, OSError, BadZipFile) as error:
            raise ValueError(
                f"{path} is damaged, or is no tree that was saved here; remove it, or name another "
                "folder"
            ) from error
        for name, value in (settings or {}).items():
            saved = told["settings"].get(name)
            if saved != value:
                raise ValueError(
                    f"the tree in {folder} was made with {name}={saved!r}, not {value!r}; go on "
                    "with the same settings, or name another folder"
                )
        branches = [
            Branch(
                parent=parent,
                path=tuple(choices),
                status=status,
                rate=float(arrays["rate"][i]),
                **{name: np.asarray(arrays[name][i]) for name in ARRAYS},
            )
            for i, (parent, choices, status) in enumerate(told["branches"])
        ]
        return cls(tuple(branches), unravel)


def resumed(
    folder: str | Path | None, new: Callable[[], Tree], settings: Mapping[str, Any], function: str
) -> Tree:
    """The tree of a folder, if it has one that began at the same root, or else a new one, saved.

    Raises:
        ValueError: the folder's tree was made with other settings, from another point, or with
            losses that have other values there.
    """
    tree = new()
    if folder is None:
        return tree
    if not (Path(folder) / FILE).is_file():
        tree.save(folder, settings)
        return tree
    found = Tree.load(folder, tree.unravel, settings)
    root, other = tree.branches[0].start, found.branches[0].start
    if root.dtype != other.dtype or not np.array_equal(root, other):
        raise ValueError(
            f"{function}: the tree in {folder} began at another point x; go on from the same, or "
            "name another folder"
        )
    old, now = found.branches[0], tree.branches[0].losses
    moved = not np.array_equal(old.vector, old.start)  # then its losses are those of another point
    close = np.finfo(root.dtype).eps ** 0.5
    if old.losses.shape != now.shape or not (
        moved or np.allclose(old.losses, now, close, close, equal_nan=True)
    ):
        raise ValueError(
            f"{function}: the tree in {folder} was made with another loss: {old.losses} in place "
            f"of {now} at x; name another folder"
        )
    return found


def root(vector: np.ndarray, losses: np.ndarray, status: str) -> Branch:
    """The first branch of a tree."""
    zeros = np.zeros_like(vector)
    return Branch(-1, (), vector, losses, float("nan"), status, vector, zeros)
