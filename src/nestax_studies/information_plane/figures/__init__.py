"""The figures of the experiment, drawn from metrics.jsonl and summary.json; measures nothing.

In all of them a line is the median over seeds, a band or a cloud their whole range (never a
standard error), information is in bits, and an arm keeps its colour. Titles say what is drawn, not
what to conclude from it.
"""

from .draw import draw as draw
from .sheet import Drawing as Drawing
from .style import COLOURS as COLOURS
