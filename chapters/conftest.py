"""nbval compares text; this adds the figures, and runs cells as a notebook does."""

from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

from book_tools import figures

_compare_text = IPyNbCell.compare_outputs
_run = IPyNbCell.runtest


def _compare_text_and_figures(self, test, ref, skip_compare=None):
    same = _compare_text(self, test, ref, skip_compare)
    complaint = figures.complaint(ref, test)
    if complaint:
        self.comparison_traceback.append(complaint)
    return same and not complaint


def _execute(self, cell_input, allow_stdin=None):
    # nbval keeps no history, without which IPython overlooks the ";" that silences the value of a cell.
    return self.kc.execute(cell_input, allow_stdin=allow_stdin, stop_on_error=False)


def _run_what_was_stored(self):
    if self.cell.execution_count is None:
        self.raise_cell_error("This cell was never run: make execute")
    _run(self)


IPyNbCell.compare_outputs = _compare_text_and_figures
IPyNbCell.runtest = _run_what_was_stored
RunningKernel.execute_cell_input = _execute
