"""What the studies of sequences share: the models compared, and how all are trained alike."""

from .arms import ARMS as ARMS
from .arms import Arm as Arm
from .comparison import Claim as Claim
from .comparison import Comparison as Comparison
from .comparison import Done as Done
from .comparison import Subjects as Subjects
from .comparison import ahead as ahead
from .comparison import panels as panels
from .comparison import place_maps as place_maps
from .comparison import reaches as reaches
from .comparison import sized as sized
from .comparison import stays_below as stays_below
from .comparison import study as study
from .comparison import tested as tested
from .tasks import Draw as Draw
from .tasks import Exam as Exam
from .tasks import Example as Example
from .tasks import Task as Task
from .tasks import read as read
from .training import Recipe as Recipe
