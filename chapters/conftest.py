"""nbval compares text; this adds the figures."""

from nbval.plugin import IPyNbCell

from book_tools import figures

_compare_text = IPyNbCell.compare_outputs


def _compare_text_and_figures(self, test, ref, skip_compare=None):
    same = _compare_text(self, test, ref, skip_compare)
    complaint = figures.complaint(ref, test)
    if complaint:
        self.comparison_traceback.append(complaint)
    return same and not complaint


IPyNbCell.compare_outputs = _compare_text_and_figures
