"""What a run shows at its end: the table of utility and distance, and pictures."""

from .figures import write_sample_grids, write_walk_figure
from .utility_table import UtilityTable, utility_table_text
