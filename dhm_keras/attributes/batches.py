"""Training batches of images and their attributes, as pure functions of (seed, epoch, step)."""

import zlib

import numpy as np

from dhm_keras.attributes.images import AttributeImages
from dhm_keras.reid.batches import PersonTrainBatches


class AttributeTrainBatches(PersonTrainBatches):
    """Endless shuffled batches of images and attributes with random translation and mirroring, for `keras.Model.fit`.

    Random translation as in OSNet's PA-100K recipe: one image in two is resized to 1.125 times the size and cropped at
    random, the others are resized as a whole. As of `reid.PersonTrainBatches` what is in a batch is a function of
    (seed, epoch, step), and the last, incomplete batch of an epoch is left out.

    Example:

    ```python
    train = dhm_keras.attributes.AttributeTrainBatches(people.train, batch_size=32)
    model.fit(train.for_backend(), steps_per_epoch=train.steps_per_epoch, epochs=50, shuffle=False)
    ```

    Args:
        source: `AttributeImages`.
        batch_size: Integer > 0, at most the number of images.
        image_size: (height, width). Defaults to `(256, 128)`.
        crop, flip: Booleans. Whether images are translated, and mirrored. Default to `True`.
        seed: Integer >= 0. Defaults to `0`.
        on_corrupt: As of `data.JpegTrainBatches`. Defaults to `"raise"`.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if an argument is not as above.
    """

    def __init__(self, source, batch_size=32, image_size=(256, 128), crop=True, flip=True, seed=0, on_corrupt="raise"):
        if not isinstance(source, AttributeImages):
            raise ValueError(f"Invalid value for argument `source`. Expected `AttributeImages`. Received: {source!r}.")
        super().__init__(source, batch_size, image_size, crop, flip, seed=seed, on_corrupt=on_corrupt)

    @property
    def settings(self):
        """As of `reid.PersonTrainBatches`, the attributes as a checksum, too."""
        return {**super().settings, "labels": zlib.crc32(np.ascontiguousarray(self.source.attributes))}

    @property
    def target_signature(self):
        return "float32", (None, len(self.source.attribute_names))

    def targets(self, labels):
        """The attributes of images.

        Args:
            labels: int64 `(b,)`, the images' numbers.

        Returns:
            float32 `(b, attributes)`, zeros and ones.
        """
        return self.source.attributes[labels].astype("float32")
