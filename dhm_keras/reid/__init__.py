"""Person re-identification: data, training batches, losses, necks, evaluation, search."""

from dhm_keras.reid.people import PersonImages, PersonSet

__all__ = ["PersonImages", "PersonSet"]
