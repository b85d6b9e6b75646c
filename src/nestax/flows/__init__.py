"""Flows: how the gradient of a slower level passes through the updates of the faster ones.

A flow is a frozen dataclass that computes a gradient and may remember (`Flow`). Trajectory flows
differentiate a period as it was executed, or estimate the gradient from runs of it. Point flows
look at one point: a partial derivative, or the implicit function theorem over a linear solver.
"""

from ._best_response import ResponseInfo as ResponseInfo
from ._best_response import best_response as best_response
from ._check import GradientCheck as GradientCheck
from ._check import check_gradient as check_gradient
from ._evolution import ES as ES
from ._evolution import NRES as NRES
from ._evolution import PES as PES
from ._evolution_gradient import evolution_gradient as evolution_gradient
from ._finite_difference import FiniteDifference as FiniteDifference
from ._finite_difference import finite_difference_gradient as finite_difference_gradient
from ._finite_difference import virtual_step as virtual_step
from ._flow import Direct as Direct
from ._flow import Flow as Flow
from ._flow import Period as Period
from ._flow import Reached as Reached
from ._implicit import Diagnostics as Diagnostics
from ._implicit import Implicit as Implicit
from ._implicit import hypergradient as hypergradient
from ._implicit import implicit_gradient as implicit_gradient
from ._implicit import implicit_root as implicit_root
from ._iterative import CG as CG
from ._iterative import GMRES as GMRES
from ._iterative import Neumann as Neumann
from ._linear import solve_linear as solve_linear
from ._lineax import Lineax as Lineax
from ._nystrom import Nystrom as Nystrom
from ._scan import unrolled as unrolled
from ._solvers import Attempt as Attempt
from ._solvers import Dense as Dense
from ._solvers import Identity as Identity
from ._solvers import SolveInfo as SolveInfo
from ._solvers import Solver as Solver
from ._unroll import Forward as Forward
from ._unroll import OneStep as OneStep
from ._unroll import Unroll as Unroll
