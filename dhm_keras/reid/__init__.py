"""Person re-identification: data, training batches, losses, necks, evaluation, search."""

from dhm_keras.necks import bl_neck, bn_neck, fbl_neck
from dhm_keras.reid.batches import IdentityBatches, PersonTestBatches, PersonTrainBatches
from dhm_keras.reid.calibration import Calibration, calibrate
from dhm_keras.reid.distances import distances
from dhm_keras.reid.drawing import plot_cmc, plot_ranking
from dhm_keras.reid.features import Extractor, embedding
from dhm_keras.reid.folders import MARKET_PATTERN, person_folder, person_table
from dhm_keras.reid.freezing import new_layers_only
from dhm_keras.reid.losses import BatchHardTriplet, SmoothedCrossEntropy
from dhm_keras.reid.market import dukemtmc, market1501
from dhm_keras.reid.people import PersonImages, PersonSet
from dhm_keras.reid.ranking import Evaluation, evaluate, evaluate_distances, mean_features
from dhm_keras.reid.reranking import rerank
from dhm_keras.reid.search import search
from dhm_keras.reid.spaces import loss_features
from dhm_keras.reid.synthetic import synthetic_people
from dhm_keras.reid.validation import EvaluateReID
from dhm_keras.triplet import batch_hard_triplet

__all__ = [
    "MARKET_PATTERN",
    "BatchHardTriplet",
    "Calibration",
    "EvaluateReID",
    "Evaluation",
    "Extractor",
    "IdentityBatches",
    "PersonImages",
    "PersonSet",
    "PersonTestBatches",
    "PersonTrainBatches",
    "SmoothedCrossEntropy",
    "batch_hard_triplet",
    "bl_neck",
    "bn_neck",
    "calibrate",
    "distances",
    "dukemtmc",
    "embedding",
    "evaluate",
    "evaluate_distances",
    "fbl_neck",
    "loss_features",
    "market1501",
    "mean_features",
    "new_layers_only",
    "person_folder",
    "person_table",
    "plot_cmc",
    "plot_ranking",
    "rerank",
    "search",
    "synthetic_people",
]
