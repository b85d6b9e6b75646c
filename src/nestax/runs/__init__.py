"""A run's folder, its progress and its report; what every experiment shares and none knows of."""

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
