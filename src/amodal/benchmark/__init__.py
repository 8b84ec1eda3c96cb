"""Methods compared under exactly equal conditions: experiment, grid, run, results."""

from amodal.benchmark.experiment import Experiment
from amodal.benchmark.grid import grid
from amodal.benchmark.results import Comparison, Results, Summary
from amodal.benchmark.run import Progress, run_all, run_experiment
from amodal.benchmark.stored import FinishedRun, read_run
from amodal.benchmark.tables import difference_table, method_table, save_tables, to_latex

__all__ = [
    "Comparison",
    "Experiment",
    "FinishedRun",
    "Progress",
    "Results",
    "Summary",
    "difference_table",
    "grid",
    "method_table",
    "read_run",
    "run_all",
    "run_experiment",
    "save_tables",
    "to_latex",
]
