"""Methods compared under exactly equal conditions: sweeps of cells, experiments, grids, runs, results."""

from amodal.benchmark.cells import Cell, Done, Failed
from amodal.benchmark.experiment import Experiment
from amodal.benchmark.fitting import fit_cell, fit_values
from amodal.benchmark.grid import grid
from amodal.benchmark.results import Comparison, Results, Summary
from amodal.benchmark.run import Progress, run_all, run_experiment
from amodal.benchmark.stored import FinishedRun, read_run
from amodal.benchmark.sweep import CellProgress, Swept, sweep
from amodal.benchmark.tables import difference_table, method_table, save_tables, to_latex

__all__ = [
    "Cell",
    "CellProgress",
    "Comparison",
    "Done",
    "Experiment",
    "Failed",
    "FinishedRun",
    "Progress",
    "Results",
    "Summary",
    "Swept",
    "difference_table",
    "fit_cell",
    "fit_values",
    "grid",
    "method_table",
    "read_run",
    "run_all",
    "run_experiment",
    "save_tables",
    "sweep",
    "to_latex",
]
