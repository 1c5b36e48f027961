"""Selection on the test set, as the published genotypes were: only where it is asked for."""

from dhm_keras.data.batches import check_integers
from dhm_keras.reid import Extractor, evaluate


class SelectOnTest:
    """Lets the test set select the epoch of a search whose genotype is taken: that of the best mAP.

    The network of the operators that are chosen at that time is evaluated, by the pooled features and their cosine. The
    authors do so; the number that the found network then reaches on this set is a little too good.

    Args:
        query, gallery: `PersonImages`.
        every: Integer > 0. Epochs from one evaluation to the next; the last is evaluated, too. Defaults to `20`.
        batch_size: Integer > 0. Defaults to `64`.

    Raises:
        ValueError: if `every` or `batch_size` is no such integer.
    """

    def __init__(self, query, gallery, every=20, batch_size=64):
        check_integers(every=(every, 1), batch_size=(batch_size, 1))
        self.query, self.gallery, self.every, self.batch_size = query, gallery, every, batch_size

    @property
    def settings(self):
        """What the selection follows from: a dict of JSON values, the images as checksums."""
        return {"query": self.query.checksum, "gallery": self.gallery.checksum, "every": self.every}

    def __call__(self, network):
        """The mAP of a network.

        Args:
            network: Functional model from images to features, see `Supernet.network`.

        Returns:
            Float in [0, 1].
        """
        extractor = Extractor(network, batch_size=self.batch_size, head=None)
        features = [extractor(images) for images in (self.query, self.gallery)]
        of_both = self.query.pids, self.gallery.pids, self.query.camids, self.gallery.camids
        return float(evaluate(*features, *of_both, metric="cosine").mean_ap)
