"""Person re-identification: data, training batches, losses, necks, evaluation, search."""

from dhm_keras.reid.batches import IdentityBatches, PersonTestBatches, PersonTrainBatches
from dhm_keras.reid.people import PersonImages, PersonSet

__all__ = [
    "IdentityBatches",
    "PersonImages",
    "PersonSet",
    "PersonTestBatches",
    "PersonTrainBatches",
]
