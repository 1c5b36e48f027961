"""What pedestrians look like and carry: many yes-or-no questions about one image, as of PA-100K."""

from dhm_keras.attributes.batches import AttributeTrainBatches
from dhm_keras.attributes.checkpoints import EpochCheckpoints
from dhm_keras.attributes.folders import attribute_folder, pa100k
from dhm_keras.attributes.images import AttributeImages, AttributeSet
from dhm_keras.attributes.loss import WeightedAttributeLoss
from dhm_keras.attributes.metrics import AttributeEvaluation, evaluate
from dhm_keras.attributes.synthetic import synthetic_attributes
from dhm_keras.attributes.validation import EvaluateAttributes, predict

__all__ = [
    "AttributeEvaluation",
    "AttributeImages",
    "AttributeSet",
    "AttributeTrainBatches",
    "EpochCheckpoints",
    "EvaluateAttributes",
    "WeightedAttributeLoss",
    "attribute_folder",
    "evaluate",
    "pa100k",
    "predict",
    "synthetic_attributes",
]
