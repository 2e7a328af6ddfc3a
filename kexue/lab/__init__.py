"""What the chapters share: ``verify``, checks for exercises, tables, figure style, data, a seeded training loop, statistics over seeds.

It serves the book and is no part of the library: nothing else in ``kexue`` imports it. Importing it loads neither torch, matplotlib nor
scikit-learn; each function imports what it needs.
"""

from kexue.lab.data import digits, prose
from kexue.lab.exercises import exercise
from kexue.lab.figures import image_grid, use_style
from kexue.lab.starting import begin
from kexue.lab.statistics import mean_se, paired, verdict
from kexue.lab.tables import table
from kexue.lab.training import fit, minimise, stack
from kexue.lab.verification import VerificationError, records, verify, verify_bound, verify_order, verify_statistic

__all__ = [
    "VerificationError",
    "begin",
    "digits",
    "exercise",
    "fit",
    "image_grid",
    "mean_se",
    "minimise",
    "paired",
    "prose",
    "records",
    "stack",
    "table",
    "use_style",
    "verdict",
    "verify",
    "verify_bound",
    "verify_order",
    "verify_statistic",
]
