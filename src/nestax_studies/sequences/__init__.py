"""What the experiments on sequences share: the models compared, and how all are trained alike."""

from .arms import ARMS as ARMS
from .arms import Arm as Arm
from .comparison import Comparison as Comparison
from .comparison import done as done
from .comparison import stages as stages
from .comparison import summarized as summarized
from .comparison import tested as tested
from .comparison import verdict as verdict
from .tasks import Draw as Draw
from .tasks import Exam as Exam
from .tasks import Example as Example
from .tasks import Task as Task
from .tasks import read as read
from .training import Recipe as Recipe
from .training import compare as compare
from .training import example as example
from .training import runner as runner
