"""Numbers of several runs in the form that papers print them."""

import numpy as np


def mean_std(values):
    """Mean and standard deviation of a sample, as text.

    Args:
        values: Sequence of numbers, one a seed.

    Returns:
        String, `"27.40 (0.26)"`, two decimals each; `"27.40"` for a single value. The deviation divides by n - 1.
    """
    spread = f" ({np.std(values, ddof=1):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"
