"""What `check` found, as numbers and as text."""

import dataclasses

COLUMNS = ("runtime", "max |difference|", "same class", "ms an image", "ratio (10 - 90 %)", "bytes")


@dataclasses.dataclass(frozen=True)
class Row:
    """What one runtime answered.

    Attributes:
        runtime: String, its name and version.
        difference: Float, the largest |difference| of a logit, or of a number of the embedding, from the trained
            model's; `None` if the runtime failed.
        others: Tuple of integers, the images that it puts into another class than the trained model; `None` of an
            embedding.
        margin: Float. The trained model's best logit is above its second by at most so much on these images.
        milliseconds: Float, of one image alone, the median; `None` without images.
        ratio: Tuple of floats, the 10th, 50th and 90th percentile of this time over that of the never-branched network,
            in neighbouring blocks of calls; `None` if there is none to compare to.
        size: Integer, bytes of what is shipped for this runtime.
        problem: String, what went wrong; empty if nothing did.
    """

    runtime: str
    difference: float | None = None
    others: tuple | None = ()
    margin: float = 0.0
    milliseconds: float | None = None
    ratio: tuple | None = None
    size: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` found; `str(report)` is a table and some sentences.

    Attributes:
        version: String, path of the version.
        images: Integer, how many images were answered.
        rows: Tuple of `Row`, one for each runtime that was run.
        equal: Boolean. Whether the never-branched network has the same variables, operations and bytes of weights;
            `None` if none was given.
        notes: Tuple of sentences: how the version compares to the never-branched network, which runtimes were not run,
            and how to get them.
    """

    version: str
    images: int
    rows: tuple
    equal: bool | None
    notes: tuple

    def __str__(self):
        table = [COLUMNS, *map(self._cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = [f"{self.version}: {self.images:,} images, compared to the trained model (CPU, float32)"]
        for first, *numbers in table:
            cells = [number.rjust(width) for number, width in zip(numbers, widths[1:])]
            lines.append("   ".join([first.ljust(widths[0]), *cells]))
        lines += [f"{row.runtime} failed: {row.problem}" for row in self.rows if row.problem]
        lines += [self._other_classes(row) for row in self.rows if row.others]
        return "\n".join([*lines, *self.notes])

    def _cells(self, row):
        if row.problem:
            return (row.runtime, "failed", "", "", "", f"{row.size:,}")
        return (
            row.runtime,
            f"{row.difference:.1e}",
            "" if row.others is None else f"{self.images - len(row.others):,} of {self.images:,}",
            "" if row.milliseconds is None else f"{row.milliseconds:.2f}",
            "{1:.2f} ({0:.2f} - {2:.2f})".format(*row.ratio) if row.ratio else "",
            f"{row.size:,}",
        )

    def _other_classes(self, row):
        some = ", ".join(map(str, row.others[:5])) + (", ..." if len(row.others) > 5 else "")
        return (
            f"{row.runtime} has another class for {len(row.others):,} of {self.images:,} images ({some}); there the "
            f"trained model's two best logits are at most {row.margin:.1e} apart."
        )
