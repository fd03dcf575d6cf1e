"""What a run shows at its end: tables of utility, distance and inversion, and pictures."""

from .figures import write_sample_grids, write_walk_figure
from .inversion_report import inversion_gap, write_inversion_report
from .utility_table import UtilityTable, utility_table_text
