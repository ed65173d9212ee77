"""What a run tells its user: metrics, a progress line, images, plots, tables and the report."""

from jdistill.reporting.environment import environment as environment
from jdistill.reporting.environment import matmul_peak as matmul_peak
from jdistill.reporting.environment import peak_memory_bytes as peak_memory_bytes
from jdistill.reporting.environment import restart_peak_memory as restart_peak_memory
from jdistill.reporting.grids import can_be_shown as can_be_shown
from jdistill.reporting.grids import image_grid as image_grid
from jdistill.reporting.grids import save_png as save_png
from jdistill.reporting.grids import timeline as timeline
from jdistill.reporting.grids import timeline_steps as timeline_steps
from jdistill.reporting.panels import curve_panels as curve_panels
from jdistill.reporting.panels import image_panels as image_panels
from jdistill.reporting.panels import point_panels as point_panels
from jdistill.reporting.plots import curves as curves
from jdistill.reporting.plots import grouped_bars as grouped_bars
from jdistill.reporting.progress import Progress as Progress
from jdistill.reporting.progress import duration as duration
from jdistill.reporting.report import Section as Section
from jdistill.reporting.report import write_report as write_report
from jdistill.reporting.table import format_table as format_table
from jdistill.reporting.table import literal as literal
from jdistill.reporting.table import mean_std as mean_std
from jdistill.reporting.writers import JsonlWriter as JsonlWriter
from jdistill.reporting.writers import TensorBoardWriter as TensorBoardWriter
from jdistill.reporting.writers import read_jsonl as read_jsonl
