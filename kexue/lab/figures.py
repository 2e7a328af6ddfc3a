"""One figure style: legible on a screen in light and dark mode, on a phone and in print, and safe for colour-blind readers."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008), without the yellow that vanishes on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

STYLE: dict[str, Any] = {
    "figure.figsize": (7.0, 3.4),
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "font.size": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "lines.linewidth": 1.8,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Set the figure style of the book; inside a notebook also the resolution of stored figures and one thread.

    The chapters compute with small arrays, for which many threads wait for each other. Where an environment variable such as
    ``OMP_NUM_THREADS`` says how many there are to be, that number stays.
    """
    import matplotlib as mpl
    from cycler import cycler

    use_one_thread()
    mpl.rcdefaults()
    mpl.rcParams.update(dict[Any, Any](STYLE, **{"axes.prop_cycle": cycler(color=COLORS)}))
    try:
        from IPython.core.getipython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        # A fixed canvas: cropping to the ink would let a change of one tick label move every pixel.
        set_matplotlib_formats("png", bbox_inches=None, pil_kwargs={"optimize": True})


def use_one_thread() -> None:
    """One thread for PyTorch, if it is loaded, and for NumPy, unless the environment sets a number."""
    if any(name in os.environ for name in THREADS):
        return
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    with contextlib.suppress(ImportError):  # comes with scikit-learn
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)


def image_grid(
    images: ArrayLike, *, columns: int = 10, titles: list[str] | None = None, row_labels: list[str] | None = None
) -> Figure:
    """Show square images given as rows of pixels, (num_images, side * side) or (num_images, side, side), on one grey scale."""
    import matplotlib.pyplot as plt

    array = np.asarray(images, dtype=np.float64)
    side = round(np.sqrt(array[0].size))
    if array[0].size != side * side:
        raise ValueError(f"images must be square, got shape {array.shape}")
    rows = -(-len(array) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(7.0, 7.0 * rows / columns + 0.3 * (titles is not None)), squeeze=False)
    low, high = float(array.min()), float(array.max())
    for index, ax in enumerate(axes.flat):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if index < len(array):
            ax.imshow(array[index].reshape(side, side), cmap="gray_r", vmin=low, vmax=high)
            if titles is not None:
                ax.set_title(titles[index], fontsize=10, loc="center")
        if row_labels is not None and index % columns == 0:
            ax.set_ylabel(row_labels[index // columns], rotation=0, ha="right", va="center")
    return fig
