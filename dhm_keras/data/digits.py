"""The 1,797 handwritten digits that scikit-learn ships, as small images."""

import numpy as np

DIGITS_MEAN_STD = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pixels in [0, 1]


def digits():
    """Loads the digits; nothing is downloaded.

    The 8x8 images of 17 grey levels are scaled to 0-255, repeated to 16x16 and to three equal channels. Of a fixed
    permutation the first 768 train and the last 997 test.

    Returns:
        `(train_images, train_labels), (test_images, test_labels)`: uint8 `(n, 16, 16, 3)` and int64 `(n,)`, ten
        classes.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn. Install it: pip install 'dhm_keras[demo]'") from error
    grey, labels = load_digits(return_X_y=True)
    images = np.round(grey.reshape(-1, 8, 8, 1) * (255 / 16)).astype("uint8")
    images = images.repeat(2, axis=1).repeat(2, axis=2).repeat(3, axis=3)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:768], order[-997:]
    return (images[train], labels[train]), (images[test], labels[test])
