"""Which images of a gallery show a query's person, and which of them count."""

import numpy as np


class Matching:
    """True matches of each query, and the images that are left out for it.

    Pids and camids are turned to whole numbers, the gallery is indexed by person once.

    Args:
        query_pids, gallery_pids: Integers or strings `(q,)` and `(g,)`.
        query_camids, gallery_camids: The same, or `None` both.
        names: Two strings, how the names of the arguments of the two sides begin.
        demand: Boolean, whether there must be a query with a true match.
    """

    def __init__(
        self, query_pids, gallery_pids, query_camids, gallery_camids, names=("query_", "gallery_"), demand=True
    ):
        self.names = names
        if (query_camids is None) != (gallery_camids is None):
            given, missing = names if gallery_camids is None else names[::-1]
            raise ValueError(
                f"Invalid value for argument `{missing}camids`. Expected camids of both sides, or None for both (then "
                f"matches by the same camera count). Received: None, but `{given}camids` was given."
            )
        query_pids = labels(query_pids, f"{names[0]}pids")
        gallery_pids = labels(gallery_pids, f"{names[1]}pids")
        self.query_codes, self.gallery_codes = self._coded(query_pids, gallery_pids, "pids")
        junk = gallery_pids == ("-1" if gallery_pids.dtype.kind == "U" else -1)
        self.kept = np.flatnonzero(~junk) if junk.any() else None
        if query_camids is None:
            self.query_cameras = self.gallery_cameras = None
        else:
            query_camids = labels(query_camids, f"{names[0]}camids", len(query_pids))
            gallery_camids = labels(gallery_camids, f"{names[1]}camids", len(gallery_pids))
            self.query_cameras, self.gallery_cameras = self._coded(query_camids, gallery_camids, "camids")
            self.gallery_cameras = self.without_junk(self.gallery_cameras)
        persons = self.without_junk(self.gallery_codes)
        self.order = np.argsort(persons, kind="stable")
        self.starts = np.searchsorted(persons, np.arange(max(self.query_codes) + 2), sorter=self.order)
        self.valid = np.array([len(self.of(i)[0]) > 0 for i in range(len(self.query_codes))])
        if demand and not self.valid.any():
            self._explain(query_pids, gallery_pids)

    def _coded(self, query, gallery, what):
        if query.dtype.kind != gallery.dtype.kind:
            raise ValueError(
                f"Invalid value for argument `{self.names[0]}{what}`. Expected strings on both sides or integers on "
                f"both. Received: {query.dtype}, such as {query[0].item()!r}, and {gallery.dtype}, such as "
                f"{gallery[0].item()!r}, which are never equal: convert one of them."
            )
        codes = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1]
        return codes[: len(query)], codes[len(query) :]

    def _explain(self, query_pids, gallery_pids):
        """Raises, saying why no query has a true match."""
        if (self.starts[self.query_codes] < self.starts[self.query_codes + 1]).any():
            raise ValueError(
                "Invalid value for argument `gallery_camids`. Expected a true match by another camera than the query's "
                "for one query at least. Received: all images of the queries' persons are by the query's own camera, "
                "and these are left out. With one camera only, or camids that mean something else, give None for "
                "both camids."
            )
        some = [", ".join(map(repr, np.unique(pids)[:5].tolist())) for pids in (query_pids, gallery_pids)]
        hint = "Do both sides number the persons alike?"
        if query_pids.dtype.kind == "U" and _bare(query_pids) & _bare(gallery_pids) - {"-1"}:
            hint = "They would match without leading zeros, blanks and '.0': write them alike."
        raise ValueError(
            f"Invalid value for argument `{self.names[0]}pids`. Expected a person who is in the gallery, too: no query "
            f"identity is in the gallery. Received: queries of {some[0]}..., a gallery of {some[1]}... {hint}"
        )

    def check_shape(self, shape, name):
        """Raises if not the shape (q, g)."""
        expected = (len(self.query_codes), len(self.gallery_codes))
        if shape != expected:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected {expected[0]} queries and {expected[1]} gallery "
                f"images, as there are pids. Received: {shape}."
            )

    def without_junk(self, values):
        """Values of the gallery `(g,)` without those of junk."""
        return values if self.kept is None else values[self.kept]

    def of(self, query):
        """A query's true matches and the images of its person by its camera: places in the gallery without junk."""
        code = self.query_codes[query]
        own = self.order[self.starts[code] : self.starts[code + 1]]
        if self.query_cameras is None:
            return own, own[:0]
        same = self.gallery_cameras[own] == self.query_cameras[query]
        return own[~same], own[same]


def labels(values, name, count=None):
    """Integers or strings `(n,)` as an array of int64 or of `U`."""
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):  # a column of pandas
        array = array.astype("U")
    fits = array.ndim == 1 and len(array) and array.dtype.kind in "iuU"
    if not fits or (count is not None and len(array) != count):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {count or 'n'} integers or strings, one an image. "
            f"Received: {array.dtype} {array.shape}."
        )
    return array if array.dtype.kind == "U" else array.astype("int64")


def bare(label):
    """A string without blanks, leading zeros, and the `.0` of a number that a table's program took for a fraction."""
    return label.strip().removesuffix(".0").lstrip("0")


def _bare(pids):
    return set(map(bare, np.unique(pids).tolist()))
