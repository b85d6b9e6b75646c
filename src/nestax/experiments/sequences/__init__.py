"""What the experiments on sequences share: the models compared, and how all are trained alike."""

from .arms import ARMS as ARMS
from .arms import Arm as Arm
from .options import chosen as chosen
from .options import positive as positive
from .training import Draw as Draw
from .training import Exam as Exam
from .training import Example as Example
from .training import Recipe as Recipe
from .training import Task as Task
from .training import compare as compare
from .training import example as example
from .training import read as read
from .training import runner as runner
