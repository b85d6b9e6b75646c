"""What sister folders use of this one, beside its public face."""

from ._axes import Axes as Axes
from ._axes import Layout as Layout
from ._axes import check_axes as check_axes
from ._axes import check_layout as check_layout
from ._axes import matrices as matrices
from ._checks import Rate as Rate
from ._checks import Scalar as Scalar
from ._checks import number as number
from ._checks import option as option
from ._checks import rate as rate
from ._checks import static as static
from ._checks import whole as whole
from ._descent import over_rms as over_rms
from ._descent import root_mean_square as root_mean_square
from ._moments import rooted as rooted
from ._precision import guarded as guarded
from ._precision import wide as wide
