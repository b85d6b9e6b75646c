"""The lab: pieces that studies are made of. It is pieces, not a frame: a study that fits none of
them writes its stages by hand.

* `options`: settings with presets and bounds
* `study`: stages, records, the run and its report
* `records`: measures of every arm
* `claims`: criteria and verdicts
* `sweep`: tuning on seeds of its own, runs side by side
* `figures`: curves, dots, maps, images
* `page`: summary.json, report.html, the terminal
"""

from .claims import Verdict as Verdict
from .claims import answer as answer
from .claims import clearly as clearly
from .claims import judge as judge
from .claims import medians as medians
from .claims import significant as significant
from .claims import spread as spread
from .options import Options as Options
from .options import Preset as Preset
from .options import names as names
from .options import option as option
from .records import Measure as Measure
from .records import Numbers as Numbers
from .records import Record as Record
from .records import Records as Records
from .records import Row as Row
from .records import listed as listed
from .records import number as number
from .records import numbers as numbers
from .records import of_subject as of_subject
from .records import rate_tuned as rate_tuned
from .records import share as share
from .study import Desk as Desk
from .study import Example as Example
from .study import Stage as Stage
from .study import Study as Study
from .summary import Findings as Findings
from .sweep import beyond as beyond
from .sweep import rates as rates
from .sweep import side_by_side as side_by_side
from .sweep import tuned as tuned
from .sweep import tuning as tuning
