"""Sequence layers: (time, width) -> (time, width), with a state that is carried along a stream."""

from ._delta_memory import DeltaMemory as DeltaMemory
from ._linear_attention import LinearAttention as LinearAttention
from ._self_modifying import SelfModifyingMemory as SelfModifyingMemory
from ._self_modifying import SelfModifyingState as SelfModifyingState
from ._titans_memory import TitansMemory as TitansMemory
