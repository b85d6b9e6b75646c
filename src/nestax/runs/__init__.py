"""A run's folder, its progress, who watches it and its report.

Importing this brings no package beyond those of the library; what needs one says so when used.
"""

from .blocks import Badge as Badge
from .blocks import Cell as Cell
from .blocks import Details as Details
from .blocks import Folded as Folded
from .blocks import Picture as Picture
from .blocks import Section as Section
from .blocks import Table as Table
from .blocks import Text as Text
from .errors import RunError as RunError
from .errors import SettingsError as SettingsError
from .files import refusals as refusals
from .files import write_atomically as write_atomically
from .folder import RunFolder as RunFolder
from .progress import Progress as Progress
from .report import write_report as write_report
from .watch import Watch as Watch
from .watcher import to_writer as to_writer
