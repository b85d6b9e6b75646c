"""Pictures of what the library finds: levels, frequencies, comparisons of flows, trees.

Importing this loads no plotting package; drawing needs matplotlib and pillow.
"""

from .flows import draw_flows as draw_flows
from .levels import draw_frequencies as draw_frequencies
from .levels import draw_levels as draw_levels
from .style import COLOURS as COLOURS
from .style import GREY as GREY
from .style import STYLE as STYLE
from .style import label_logarithmic as label_logarithmic
from .style import save as save
from .trees import draw_tree as draw_tree
