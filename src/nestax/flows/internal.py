"""What the folders above need of this one and users do not."""

from ._hoist import has_reverse_only_rule as has_reverse_only_rule
from ._lean import lean_gradient as lean_gradient
from ._rewrite import any_equation as any_equation
from ._rewrite import evaluate as evaluate
from ._safe_update import quiet as quiet
from ._safe_update import rejects as rejects
from ._safe_update import safe_update as safe_update
from ._vectors import norm as norm
from ._vectors import uphill as uphill
from ._weights import check_arrays as check_arrays
from ._weights import is_function as is_function
from ._weights import trained_leaves as trained_leaves
from .fixed_point import Motion as Motion
from .fixed_point import difference as difference
from .fixed_point import memory_of as memory_of
from .fixed_point import merge as merge
from .fixed_point import motion as motion
from .fixed_point import remembering as remembering
from .fixed_point import widened as widened
from .jaxprs import called_by as called_by
from .jaxprs import dependence as dependence
from .jaxprs import has_cases as has_cases
from .jaxprs import opened as opened
from .jaxprs import scan_counts as scan_counts
from .jaxprs import while_parts as while_parts
