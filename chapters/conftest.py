"""nbval compares text; this adds the figures, runs cells as a notebook does, and after the whole notebook each cell once more.

"Change a number, run the cell again" is what readers are told; so each cell, run by itself after a full run, must print what is stored.
Cells that train for longer than about two seconds carry the tag ``slow`` and are run once.
"""

from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from book_tools import figures

_compare_text = IPyNbCell.compare_outputs
_run = IPyNbCell.runtest
_collect = IPyNbFile.collect

KEEP = "import builtins; builtins.kept = dict(globals())"
RESTORE = "globals().clear(); globals().update(__import__('builtins').kept)"


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


class AgainCell(IPyNbCell):
    """A cell that runs once more after the whole notebook, among the names that the notebook left."""

    def runtest(self):
        self._quietly(KEEP)
        try:
            super().runtest()
        finally:
            self._quietly(RESTORE)

    def _quietly(self, code):
        kernel = self.parent.kernel
        kernel.await_reply(
            kernel.kc.execute(code, silent=True, store_history=False), timeout=60
        )


def _collect_twice(self):
    cells = list(_collect(self))
    yield from cells
    for cell in cells:
        if "slow" not in cell.cell.metadata.get("tags", []):
            again = {
                "cell_num": cell.cell_num,
                "cell": cell.cell,
                "options": cell.options,
            }
            yield AgainCell.from_parent(self, name=f"{cell.name} again", **again)


IPyNbCell.compare_outputs = _compare_text_and_figures
IPyNbCell.runtest = _run_what_was_stored
IPyNbFile.collect = _collect_twice
RunningKernel.execute_cell_input = _execute
