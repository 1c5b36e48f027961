"""What the paper trains with: every setting of its experiments, and where it is from.

The paper takes the schedules from the networks' own papers. Where it and its authors' release differ, or it says
nothing, the source tells which of them, or that the choice is ours.
"""

import own_protocols
from own_protocols import family

PAPER = "the paper, section 4.1"
PAPER_REID = "the paper, section 4.2"
TORCHREID = "torchreid, whose recipe of early 2019 the paper's is"
RESNETS_OWN, DENSENETS_OWN, WRNS_OWN = (
    f"{name}'s schedule, as the paper says" for name in ("ResNet", "DenseNet", "WRN")
)

# Of both data sets. None: nothing of the kind.
FOR_ALL = {
    "learning_rate": (0.1, PAPER),
    "momentum": (0.9, PAPER),
    "warmup_epochs": (0.0, "off, as in the authors' release; linear, ours"),
    "train_examples": (None, "all of them"),
    "corrupt": (0.0, "supplement E has 0.2 and 0.5"),
    "branches": (("aux1", "aux2"), "the paper; Table 4 has others"),
    "sampling": ("fixed", "the paper; supplement D has bernoulli"),
    "p": (0.5, "supplement D, of bernoulli"),
    "scope": ("mimic", "supplement D; eq. 8-9 have branch"),
    "direction": ("both", "the paper; section 4.3.1 has others"),
    "temperature": (1.0, "the paper has none"),
    "ce_weight": (1.0, "lambda of every branch, eq. 8; the paper has no other"),
    "mimic_weight": (1.0, "mu of every pair, eq. 9; the paper has no other"),
    "precision": ("float32", "ours"),
    "devices": (1, "ours; of each machine"),
}
CIFAR100 = {
    "resnet": {
        "batch_size": (128, PAPER),
        "epochs": (164, RESNETS_OWN),
        "milestones": ((81, 122), RESNETS_OWN),
        "decay": (0.1, RESNETS_OWN),
        "weight_decay": (1e-4, PAPER),
    },
    "densenet": {
        "batch_size": (64, "the authors' release; the paper's text has 128 for all"),
        "epochs": (300, DENSENETS_OWN),
        "milestones": ((150, 225), DENSENETS_OWN),
        "decay": (0.1, DENSENETS_OWN),
        "weight_decay": (1e-4, PAPER),
    },
    "wrn": {
        "batch_size": (128, PAPER),
        "epochs": (200, WRNS_OWN),
        "milestones": ((60, 120, 160), WRNS_OWN),
        "decay": (0.2, WRNS_OWN),
        "weight_decay": (5e-4, "the authors' release; the paper's text has 1e-4 for all"),
    },
}
DROPOUT = {"dropout": (0.0, "supplement F has 0.3, WRN only")}
IMAGENET = {
    "batch_size": (256, PAPER),
    "epochs": (90, PAPER),
    "milestones": ((30, 60), PAPER),
    "decay": (0.1, PAPER),
    "weight_decay": (1e-4, PAPER),
    "image_size": (224, PAPER),
    "num_classes": (1000, PAPER),
    "augmentation": ("auto", "the paper: scale; crop for a shallow ResNet under DHM (18, 34 and 50: ours)"),
}
# Of person re-identification. What the paper leaves open is filled in from the code base that it used.
REID = {
    "resnet50": {
        "start": ("imagenet", PAPER_REID),
        "new_layers_epochs": (10, f"{PAPER_REID}: new layers alone, before the epochs; of a start from ImageNet"),
        "epochs": (60, PAPER_REID),
        "milestones": ((20, 40), PAPER_REID),
        "learning_rate": (3e-4, PAPER_REID),
    },
    "mobilenet": {
        "start": ("random", PAPER_REID),
        "new_layers_epochs": (0, "of a start from ImageNet"),
        "epochs": (90, PAPER_REID),
        "milestones": ((30, 60), PAPER_REID),
        "learning_rate": (1e-3, PAPER_REID),
        "last_stride": (1, "MobileNet's; Table 10 prints 2, as MobileNet's own paper does"),
    },
}
FOR_ALL_REID = {
    "dataset": ("market1501", "the paper has duke, too"),
    "image_size": ("256x128", PAPER_REID),
    "batch_size": (32, PAPER_REID),
    "decay": (0.1, PAPER_REID),
    "weight_decay": (5e-4, PAPER_REID),
    "label_smoothing": (0.1, f"the paper does not say how much; {TORCHREID}"),
    "erasing": (0.0, "the paper names none"),
    "metric": ("euclidean", f"squared; {TORCHREID}"),
    "evaluate_every": (10, "ours; after the last epoch, too"),
}
IMAGES = {  # to train on, to test or validate on; of persons to train on, to search for, to search in
    "cifar100": (50_000, 10_000),
    "imagenet": (1_281_167, 50_000),
    "market1501": (12_936, 3_368, 15_913),
    "duke": (16_522, 2_228, 17_661),
}
STEPS = ("milestones", "decay")  # of a schedule of steps
SHALLOW = ("resnet18", "resnet34", "resnet50")  # "relatively shallow", says the paper, and not which
_OTHERS = [arch for archs in own_protocols.ARCHS.values() for arch in archs]
ARCHS = {
    "cifar100": (
        *("resnet20", "resnet32", "resnet56", "resnet110", "resnet1202"),
        *("densenet40", "densenet100", "densenetbc100", "wrn16_8", "wrn28_10"),
        *_OTHERS,
    ),
    "imagenet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", *_OTHERS),
    "reid": ("mobilenet", "resnet50", *_OTHERS),
}


def settings_of(recipe, arch, start=None):
    """The paper's settings of one network; of OSNet and CDNet those of their own papers.

    Args:
        recipe: `"cifar100"`, `"imagenet"` or `"reid"`.
        arch: String, one of `ARCHS[recipe]`.
        start: `"random"` or `"imagenet"`, of re-identification with OSNet and CDNet. Defaults to the first.

    Returns:
        Dict from name to (value, source), in the order in which a recipe prints them.
    """
    own = family(arch)
    if recipe == "reid":
        of_all = {name: value for name, value in FOR_ALL.items() if name not in ("momentum", "learning_rate")}
        return {**FOR_ALL_REID, **(own_protocols.of_reid(arch, start) if own else REID[arch]), **of_all}
    if recipe == "imagenet":
        of_paper = {**IMAGENET, **FOR_ALL}
        if not own:
            return of_paper
        own = own_protocols.IMAGENET[own]
        return {name: value for name, value in {**of_paper, **own}.items() if name not in STEPS or name in own}
    if own:
        return {**DROPOUT, **FOR_ALL, **own_protocols.CIFAR100[own]}
    of_family = next(name for name in CIFAR100 if arch.startswith(name))
    return {**CIFAR100[of_family], **DROPOUT, **FOR_ALL}


def images_of(config):
    """The numbers of images that the paper's experiment has, a tuple; `None` where the paper has no such data set.

    Args:
        config: Dict, of a run.
    """
    return IMAGES.get(config.get("dataset", config["recipe"]))


def augmentation(arch, method):
    """`"scale"` or `"crop"`: what the paper trains a network for ImageNet with.

    Args:
        arch: String.
        method: String, as `"dhm"`.
    """
    return "crop" if method == "dhm" and arch in SHALLOW else "scale"


def deviations(config):
    """In what a run differs from the paper's experiment with this network and method.

    Args:
        config: Dict, the config of a run of `recipes/cifar100.py`, `recipes/imagenet.py` or `recipes/reid.py`.

    Returns:
        Dict from the setting's name to (the run's value, the paper's). The milestones are not in it, which follow from
        the epochs, nor is what cannot change a result but by rounding: devices, precision. Nor is how often a network
        was evaluated.
    """
    settings = settings_of(config["recipe"], config["arch"], config.get("start"))
    paper = {name: value for name, (value, _) in settings.items()}
    if paper.get("augmentation") == "auto":
        paper["augmentation"] = augmentation(config["arch"], config["method"])
    if config["recipe"] == "reid" and family(config["arch"]):
        paper["start"] = "random"  # the other start is another experiment
    differ = {}
    for name, value in paper.items():
        of_run = config.get(name)
        if isinstance(of_run, list):
            of_run = tuple(of_run)
        if (
            name not in ("milestones", "devices", "precision", "evaluate_every")
            and of_run != value
            and not _is_unused(name, of_run)
        ):
            differ[name] = of_run, value
    return differ


def _is_unused(name, value):
    """Whether a setting is one that the run's method, or its sampling, does not heed: `None` in its config."""
    return value is None and name != "train_examples"
