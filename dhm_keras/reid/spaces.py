"""The features that each loss acts on: where there is a neck they are different ones."""

from dhm_keras.export.heads import penultimate
from dhm_keras.network import Network, before_normalization, classifier_input


def loss_features(model, head="main"):
    """The parts of a network that give what the triplet loss acts on, and what the classifier takes.

    Behind a `bl_neck` or `fbl_neck` that are the pooled features and those that the neck makes of them, behind a
    `bn_neck` those before and after the normalization. To see what a neck does, `analysis.plot_embeddings` draws both.

    Example:

    ```python
    parts = dhm_keras.reid.loss_features(model)
    features = {name: dhm_keras.reid.Extractor(part, head=None)(images) for name, part in parts.items()}
    dhm_keras.analysis.plot_embeddings(features, images.pids, "tsne.png")
    ```

    Args:
        model: `DHM`, or a functional model from images to logits or to a dict of which `head` has logits.
        head: String. Defaults to `"main"`; `"main_local"` of an `fbl_neck`.

    Returns:
        Dict from `"triplet features"` and `"softmax features"` to a functional model from images to them, `(batch, d)`,
        that shares layers and weights with `model`; where there is no neck, `"features"` alone.

    Raises:
        ValueError: if there is no such head, or it does not end in a Dense layer.
    """
    network, compared = penultimate(model, head)
    outputs = network.output if isinstance(network.output, dict) else {}
    softmax = classifier_input(outputs[head]) if head in outputs else compared
    triplet = outputs.get(f"{head}_features")
    if triplet is None:
        triplet = before_normalization(softmax)
    found = {"features": softmax} if triplet is None else {"triplet features": triplet, "softmax features": softmax}
    part = lambda name, features: Network(network.inputs[0], features, name=f"{network.name}_{head}_{name}")
    return {name: part(name.replace(" ", "_"), features) for name, features in found.items()}
