"""A run's folder, its progress, who watches it and its report.

Importing this brings no package beyond those of the library; what needs one says so when used.
"""

from .errors import RunError as RunError
from .errors import SettingsError as SettingsError
from .files import refusals as refusals
from .files import write_atomically as write_atomically
from .folder import RunFolder as RunFolder
from .progress import Progress as Progress
from .report import (
    Details as Details,
)
from .report import (
    Picture as Picture,
)
from .report import (
    Section as Section,
)
from .report import (
    Table as Table,
)
from .report import (
    Text as Text,
)
from .report import (
    write_report as write_report,
)
from .watch import Watch as Watch
from .watch import to_writer as to_writer
