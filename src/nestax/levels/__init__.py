"""Levels and nests: declare optimization problems, get one compiled step."""

from ._compare import FlowComparison as FlowComparison
from ._compare import FlowRow as FlowRow
from ._compare import compare_flows as compare_flows
from ._exact import check_gradient as check_gradient
from ._field import Field as Field
from ._held import Held as Held
from ._info import LevelInfo as LevelInfo
from ._level import Level as Level
from ._nest import Nest as Nest
from ._peers import Peers as Peers
from ._process import Process as Process
from ._run import DivergenceError as DivergenceError
from ._single_loop import f2sa as f2sa
from ._single_loop import saba as saba
from ._single_loop import soba as soba
from ._state import State as State
from ._stream import Stream as Stream
from ._stream import StreamEnded as StreamEnded
from ._table import LevelTable as LevelTable
from ._table import level_table as level_table
