"""Valid calls of every public name of ``kexue.functions.mitchell``; the abuse sweep derives the others (trials/abuse.py)."""

import numpy as np

from trials.abuse import Calls, Site, given

A = np.array([[0.5, 12.3], [4.56, 0.75]])
B = np.array([[3.0, 0.3], [1.5, 7.0]])

CALLS: Calls = {
    "mitchell_multiply": (Site(lambda: given(a=A.copy(), b=B.copy()), rows="a b"),),
    "mitchell_divide": (Site(lambda: given(a=A.copy(), b=B.copy()), rows="a b"),),
    "mitchell_log2": (Site(lambda: given(x=A.copy()), rows="x", fixed=True),),
    "mitchell_exp2": (Site(lambda: given(y=A.copy()), rows="y", fixed=True),),
    "mitchell_matmul": (Site(lambda: given(a=A.copy(), b=B.copy()), rows="a"),),
}
EVERY = "every float is an operand, infinities and NaN as in IEEE 754"
EXEMPT = (
    (r"mitchell_(multiply|divide|exp2|matmul), \w+: (NaN|one NaN|inf|one inf|-inf|negative|huge|largest)$", "answered", EVERY),
    (r"mitchell_(multiply|divide|log2|exp2), \w+: a scalar", "answered", "a number is an array without axes"),
    (r"mitchell_log2, x: (huge|largest)", "answered", "large numbers have logarithms"),
    (r"mitchell_\w+, \w+: long double", "refused", "float32 and float64 have Mitchell's layout, long double has not"),
)
