"""Memories that learn at every token: rules, chunk-parallel forms, layers, and models made of them.

A memory is a level inside a sequence model: its weights are written at every token by a rule that
is a gradient step on an inner objective, and an outer level trains through the writes.
"""

from ._attention import AttentionState as AttentionState
from ._attention import CausalAttention as CausalAttention
from ._delta import delta_rule as delta_rule
from ._delta import linear_attention as linear_attention
from ._delta import titans as titans
from ._feed import FeedForward as FeedForward
from ._feed import SwiGLU as SwiGLU
from ._generate import TokenStream as TokenStream
from ._generate import generate as generate
from ._generate import stream_tokens as stream_tokens
from ._in_context import learn_in_context as learn_in_context
from ._masks import segment_starts as segment_starts
from ._miras import memora as memora
from ._miras import moneta as moneta
from ._miras import yaad as yaad
from ._network_scan import NetworkState as NetworkState
from ._network_scan import network_scan as network_scan
from ._network_scan import network_state as network_state
from ._networks import errors as errors
from ._networks import network_chunk as network_chunk
from ._networks import read_memory as read_memory
from ._objectives import Objective as Objective
from ._objectives import dot as dot
from ._objectives import huber as huber
from ._objectives import l2 as l2
from ._objectives import lp as lp
from ._omega import OmegaState as OmegaState
from ._omega import omega as omega
from ._omega import omega_state as omega_state
from ._parts import LayerState as LayerState
from ._rules import delta as delta
from ._rules import delta_gradient_descent as delta_gradient_descent
from ._rules import gated_delta as gated_delta
from ._rules import hebbian as hebbian
from ._rules import implicit_rate as implicit_rate
from ._rules import oja as oja
from ._rules import titans_rule as titans_rule
from ._rules import write as write
from ._scan import memory_chunk as memory_chunk
from ._scan import memory_scan as memory_scan
from ._scan_rule import scan_rule as scan_rule
from .blocks import Block as Block
from .blocks import BlockState as BlockState
from .blocks import make_block as make_block
from .continuum import ContinuumMemory as ContinuumMemory
from .continuum import ContinuumState as ContinuumState
from .hope import HopeLM as HopeLM
from .hope import stack_levels as stack_levels
from .layers import DeltaMemory as DeltaMemory
from .layers import LinearAttention as LinearAttention
from .layers import SelfModifyingMemory as SelfModifyingMemory
from .layers import SelfModifyingState as SelfModifyingState
from .layers import TitansMemory as TitansMemory
