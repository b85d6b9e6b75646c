"""The level table: which parts of a step's state are written how often, and which wait for which.

`jaxpr` alone touches JAX's intermediate representation; it makes the plain graph of `graph`, in
which `flow` follows values, `lineage` components, and `writes` counts. `trace` and `count` run the
step, symbolically and for numbers; `table` derives the levels and `rows` prints them.
"""

from .table import LevelTable as LevelTable
from .table import level_table as level_table
