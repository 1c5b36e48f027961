"""Person re-identification: data, training batches, losses, necks, evaluation, search."""

from dhm_keras.reid.batches import IdentityBatches, PersonTestBatches, PersonTrainBatches
from dhm_keras.reid.drawing import plot_cmc, plot_ranking
from dhm_keras.reid.folders import MARKET_PATTERN, person_folder, person_table
from dhm_keras.reid.losses import BatchHardTriplet, SmoothedCrossEntropy, batch_hard_triplet
from dhm_keras.reid.market import dukemtmc, market1501
from dhm_keras.reid.necks import bn_neck
from dhm_keras.reid.people import PersonImages, PersonSet
from dhm_keras.reid.synthetic import synthetic_people

__all__ = [
    "MARKET_PATTERN",
    "BatchHardTriplet",
    "IdentityBatches",
    "PersonImages",
    "PersonSet",
    "PersonTestBatches",
    "PersonTrainBatches",
    "SmoothedCrossEntropy",
    "batch_hard_triplet",
    "bn_neck",
    "dukemtmc",
    "market1501",
    "person_folder",
    "person_table",
    "plot_cmc",
    "plot_ranking",
    "synthetic_people",
]
