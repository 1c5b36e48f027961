"""Images with attributes in files, and the sets that attribute recognition trains and tests on."""

import dataclasses
import zlib

import numpy as np

from dhm_keras.data import ImageFiles


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeImages(ImageFiles):
    """Images in files, and which attributes each has.

    It is `data.ImageFiles` whose label `i` is the image's own number, so that whoever reads some of them finds their
    rows of `attributes`.

    Example:

    ```python
    images = dhm_keras.attributes.AttributeImages.of("crops", ["a.jpg", "b.jpg"], [[1, 0], [0, 0]], ["Hat", "Backpack"])
    ```

    Args:
        folder, names, labels, class_names, spans: As of `data.ImageFiles`; `of` fills them in.
        attributes: Zeros and ones `(n, k)`, of any dtype: which of the k attributes each image has.
        attribute_names: Sequence of k strings.

    Raises:
        ValueError: as of `data.ImageFiles`; if the attributes are not as above, or two have one name.
    """

    attributes: np.ndarray = None
    attribute_names: tuple = ()

    def __post_init__(self):
        super().__post_init__()
        attributes, names = np.asarray(self.attributes), tuple(self.attribute_names)
        if attributes.ndim != 2 or attributes.shape != (len(self), len(names)) or not names:
            raise ValueError(
                f"Invalid value for argument `attributes`. Expected the shape ({len(self)}, {len(names)}), a row an "
                f"image and a column a name, at least one. Received: {attributes.shape}."
            )
        if attributes.dtype.kind not in "biuf" or not np.isin(attributes, (0, 1)).all():
            odd = [value for value in np.unique(attributes).tolist() if value not in (0, 1)]
            raise ValueError(
                f"Invalid value for argument `attributes`. Expected zeros and ones. Received: {attributes.dtype}, "
                f"among them {odd[:3]}."
            )
        if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"Invalid value for argument `attribute_names`. Expected strings, each once. Received: {names}."
            )
        object.__setattr__(self, "attributes", attributes.astype("uint8"))
        object.__setattr__(self, "attribute_names", names)

    @classmethod
    def of(cls, folder, names, attributes, attribute_names):
        """Images by their attributes.

        Args:
            folder: Path that the names are relative to.
            names: Sequence of n strings.
            attributes, attribute_names: As of `AttributeImages`.

        Returns:
            `AttributeImages`.

        Raises:
            ValueError: as of `AttributeImages`.
        """
        names = tuple(names)
        own = np.arange(len(names))
        return cls(str(folder), names, own, names, attributes=attributes, attribute_names=attribute_names)

    @property
    def positive_ratios(self):
        """Share of the images that have each attribute, float64 `(k,)`."""
        return self.attributes.mean(axis=0, dtype="float64")

    @property
    def checksum(self):
        """A number for which images these are, by their names and attributes."""
        return zlib.crc32(np.ascontiguousarray(self.attributes), super().checksum)

    def take(self, rows):
        """Some of the images, as of `data.ImageFiles`; their labels are numbered anew.

        Args:
            rows: Integers `(m,)`, or booleans `(n,)`.

        Returns:
            `AttributeImages`.

        Raises:
            ValueError: if the rows are neither.
        """
        rows = self._numbers(rows)
        names = [self.names[i] for i in rows]
        return AttributeImages.of(self.folder, names, self.attributes[rows], self.attribute_names)


@dataclasses.dataclass(frozen=True)
class AttributeSet:
    """What attribute recognition trains, validates and tests on; printed, it is a table of the numbers of images.

    Args:
        title: String, as `"PA-100K"`.
        train, val, test: `AttributeImages`.

    Raises:
        ValueError: if they have not the same attributes in the same order.
    """

    title: str
    train: AttributeImages = dataclasses.field(repr=False)
    val: AttributeImages = dataclasses.field(repr=False)
    test: AttributeImages = dataclasses.field(repr=False)

    def __post_init__(self):
        for name in ("val", "test"):
            if getattr(self, name).attribute_names != self.train.attribute_names:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected the attributes of train, "
                    f"{', '.join(self.train.attribute_names)}. Received: "
                    f"{', '.join(getattr(self, name).attribute_names)}."
                )

    @property
    def attribute_names(self):
        """Names of the attributes, a tuple."""
        return self.train.attribute_names

    def __str__(self):
        lines = [self.title, "subset | # images | # attributes | attributes of an image"]
        for name in ("train", "val", "test"):
            attributes = getattr(self, name).attributes
            lines.append(
                f"{name:<6} | {len(attributes):>8} | {attributes.shape[1]:>12} | {attributes.sum(1).mean():.2f}"
            )
        return "\n".join(lines)
