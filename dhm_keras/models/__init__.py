"""Networks with side branches, by name: each a functional Keras model from images to a dict of logits."""

import difflib

from dhm_keras.models.builder import Branch
from dhm_keras.models.cdnet import (
    cdnet,
    cdnet_top1,
    cdnet_top2,
    cdnet_top3,
    cdnet_top4,
    cnet_top1,
    cnet_top2,
    cnet_top3,
    cnet_top4,
)
from dhm_keras.models.cifar_resnet import cifar_resnet, resnet20, resnet32, resnet56, resnet110, resnet1202
from dhm_keras.models.densenet import densenet, densenet40, densenet100, densenetbc100
from dhm_keras.models.genotypes import GENOTYPES, SPACES, read_genotype, write_genotype
from dhm_keras.models.imagenet_resnet import imagenet_resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from dhm_keras.models.mobilenet import mobilenet
from dhm_keras.models.osnet import osnet, osnet_x0_5, osnet_x0_25, osnet_x0_75, osnet_x1_0
from dhm_keras.models.wide_resnet import wide_resnet, wrn16_8, wrn28_10
from dhm_keras.network import Network

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
        mobilenet,
        osnet_x1_0,
        osnet_x0_75,
        osnet_x0_5,
        osnet_x0_25,
        cdnet,
        cdnet_top1,
        cdnet_top2,
        cdnet_top3,
        cdnet_top4,
        cnet_top1,
        cnet_top2,
        cnet_top3,
        cnet_top4,
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
    return _builder(name)(**kwargs)


def _builder(name):
    if name not in REGISTRY:
        near = difflib.get_close_matches(str(name), REGISTRY, n=1)
        raise ValueError(
            f"Invalid value for argument `name`. Expected one of {names()}. Received: {name!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    return REGISTRY[name]


def branches(name):
    """The side branches that a network can be built with by their names.

    Args:
        name: String, one of `names()`.

    Returns:
        Dict from head, as `"aux1"`, to `Branch`.

    Raises:
        ValueError: if there is no network of that name.
    """
    return dict(_builder(name).branches)


def alone(network, head):
    """One branch by itself, from the image to its classifier: what Table 5 calls independent.

    Example:

    ```python
    network = dhm_keras.models.alone(dhm_keras.models.resnet18(branches=("aux2",)), "aux2")
    model = dhm_keras.DHM(network, method="baseline")
    ```

    Args:
        network: Functional model with a dict of heads as output.
        head: String, the branch's name.

    Returns:
        Functional model from images to `{"main": logits}`, of a branch with a `reid.bl_neck` also its
        `main_features` and `embedding`; shares layers and weights with `network`.

    Raises:
        ValueError: if the network has no such head.
    """
    if head not in network.output:
        raise ValueError(
            f"Invalid value for argument `head`. Expected one of {sorted(network.output)}. Received: {head!r}."
        )
    outputs = {"main": network.output[head]}
    if (features := network.output.get(f"{head}_features")) is not None:
        outputs |= {"main_features": features, "embedding": features}  # the same but for dropout in training
    return Network(network.input, outputs, name=f"{network.name}_{head}")


def names():
    """Names of all networks, in alphabetical order."""
    return sorted(REGISTRY)


__all__ = [
    "GENOTYPES",
    "SPACES",
    "Branch",
    "alone",
    "branches",
    "cifar_resnet",
    "densenet",
    "get",
    "imagenet_resnet",
    "names",
    "osnet",
    "read_genotype",
    "wide_resnet",
    "write_genotype",
    *REGISTRY,
]
