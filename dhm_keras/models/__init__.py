"""Networks with side branches, by name: each a functional Keras model from images to a dict of logits."""

import difflib

from dhm_keras.models.builder import Branch
from dhm_keras.models.cifar_resnet import cifar_resnet, resnet20, resnet32, resnet56, resnet110, resnet1202
from dhm_keras.models.densenet import densenet, densenet40, densenet100, densenetbc100
from dhm_keras.models.imagenet_resnet import imagenet_resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from dhm_keras.models.wide_resnet import wide_resnet, wrn16_8, wrn28_10

REGISTRY = {
    builder.__name__: builder
    for builder in (
        resnet20,
        resnet32,
        resnet56,
        resnet110,
        resnet1202,
        densenet40,
        densenet100,
        densenetbc100,
        wrn16_8,
        wrn28_10,
        resnet18,
        resnet34,
        resnet50,
        resnet101,
        resnet152,
    )
}


def get(name, /, **kwargs):
    """Builds a network by its name.

    Args:
        name: String, one of `names()`.
        **kwargs: Arguments of the builder, such as `num_classes` and `branches`.

    Returns:
        Functional Keras model from images to a dict of logits, one entry a head.

    Raises:
        ValueError: if there is no network of that name.
    """
    if name not in REGISTRY:
        near = difflib.get_close_matches(str(name), REGISTRY, n=1)
        raise ValueError(
            f"Invalid value for argument `name`. Expected one of {names()}. Received: {name!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    return REGISTRY[name](**kwargs)


def names():
    """Names of all networks, in alphabetical order."""
    return sorted(REGISTRY)


__all__ = ["Branch", "cifar_resnet", "densenet", "get", "imagenet_resnet", "names", "wide_resnet", *REGISTRY]
