"""What OSNet and CDNet are trained with, by their own papers and code: a setting, and where it is from.

Where a paper says nothing its authors' code fills in; where neither does the source says that the choice is ours.
"""

OSNET = "OSNet's paper, as its authors' code base quotes it"
OSNET_SUPPLEMENT = "OSNet's supplement, section C"
TORCHREID = "torchreid, its authors' code base"
CDNET = "CDNet's authors' code"
CDNET_SUPPLEMENT = "CDNet's supplement, section 5"
OURS = "ours: no source says it"

_FOR_REID = {
    "momentum": (0.9, "of SGD"),
    "width": (1.0, "CDNet's supplement, Table 3: also 0.75, 0.5, 0.25"),
}
_OSNET_REID = {
    "dataset": ("market1501", OSNET),
    "image_size": ("256x128", OSNET),
    "weight_decay": (5e-4, TORCHREID),
    "batch_size": (64, OSNET),
    "neck": ("dense", "OSNet; CDNet's supplement, Table 2, has fblneck, too"),
    "images_of_each": (0, "plain shuffling"),
    "triplet_weight": (0.0, "OSNet's supplementary runs have 0.5, with --images_of_each 4"),
    "crop": ("resize", TORCHREID),
    "label_smoothing": (0.1, OSNET),
    "metric": ("euclidean", f"squared; {TORCHREID}"),
}
_CDNET_REID = {
    "dataset": ("market1501", CDNET),
    "image_size": ("256x128", "CDNet's supplement, Table 3: also 192x96, 128x64, 64x32"),
    "weight_decay": (5e-4, CDNET),
    "batch_size": (64, "CDNet's supplement, section 1; of each person 4 images"),
    "neck": ("fblneck", "CDNet's supplement, section 4"),
    "images_of_each": (4, "CDNet's supplement, section 1"),
    "triplet_weight": (1.0, f"{CDNET}; the margin is 0.3"),
    "crop": ("pad", f"{CDNET}: 10 pixels"),
    "dropout": (0.2, f"{CDNET}; of the features"),
    "patch": (0.0, "CDNet has none"),
    "erasing": (0.0, f"{CDNET} asks for 0.5, and erases nothing: its areas round to 0 pixels"),
    "label_smoothing": (0.0, CDNET),
    "metric": ("cosine", f"{CDNET}: Euclidean of normalised features, the same order"),
    "optimizer": ("sgd", CDNET),
    "epochs": (350, CDNET),
    "milestones": ((150, 225, 300), CDNET),
    "learning_rate": (0.065, CDNET),
    "new_layers_epochs": (0, CDNET),
    "start": ("random", CDNET),
}
REID = {
    ("osnet", "random"): {
        **_OSNET_REID,
        "optimizer": ("sgd", OSNET),
        "epochs": (350, OSNET),
        "milestones": ((150, 225, 300), OSNET),
        "learning_rate": (0.065, OSNET),
        "patch": (0.5, f"{OSNET}; of another training image, not of a pool of earlier ones: ours"),
        "erasing": (0.0, "OSNet has it with a start from ImageNet"),
        "new_layers_epochs": (0, "of a start from ImageNet"),
        "start": ("random", OSNET),
    },
    ("osnet", "imagenet"): {
        **_OSNET_REID,
        "optimizer": ("amsgrad", OSNET),
        "epochs": (140, f"{OSNET}: 150, the first 10 with new layers alone"),
        "milestones": ((50, 110), f"{OSNET}: after 60 and 120 of the 150"),
        "learning_rate": (0.0015, OSNET),
        "patch": (0.0, "OSNet has it from scratch"),
        "erasing": (0.5, OSNET),
        "new_layers_epochs": (10, OSNET),
        "start": ("imagenet", OSNET),
    },
    ("cdnet", "random"): _CDNET_REID,
    ("cdnet", "imagenet"): {**_CDNET_REID, "start": ("imagenet", f"{CDNET}: a training of its own on ImageNet")},
}
IMAGENET = {
    "osnet": {
        "batch_size": (1024, OSNET_SUPPLEMENT),
        "epochs": (120, OSNET_SUPPLEMENT),
        "schedule": ("cosine", OURS),
        "learning_rate": (0.4, OSNET_SUPPLEMENT),
        "weight_decay": (4e-5, OSNET_SUPPLEMENT),
        "augmentation": ("crop", f"{OSNET_SUPPLEMENT}; the shorter side is resized to 256, not both"),
    },
    "cdnet": {
        "batch_size": (128, CDNET),
        "dropout": (0.2, CDNET),
        "epochs": (240, CDNET_SUPPLEMENT),
        "schedule": ("exponential", CDNET_SUPPLEMENT),
        "learning_rate": (0.1, CDNET_SUPPLEMENT),
        "decay": (0.97, CDNET_SUPPLEMENT),
        "weight_decay": (3e-5, CDNET_SUPPLEMENT),
        "augmentation": ("scale", CDNET),
    },
}
CIFAR100 = {
    "osnet": {
        "batch_size": (128, OURS),
        "epochs": (164, f"{OURS}; ResNet's schedule"),
        "milestones": ((81, 122), f"{OURS}; ResNet's schedule"),
        "decay": (0.1, OURS),
        "weight_decay": (1e-4, OURS),
        "learning_rate": (0.1, OURS),
        "momentum": (0.9, OURS),
    },
    "cdnet": {
        "batch_size": (256, CDNET),
        "dropout": (0.2, CDNET),
        "epochs": (350, CDNET),
        "milestones": ((150, 225, 300), CDNET),
        "decay": (0.1, CDNET),
        "weight_decay": (5e-4, CDNET),
        "learning_rate": (0.065, CDNET),
        "momentum": (0.9, CDNET),
        "cutout": (16, f"{CDNET}; pixels"),
    },
}
ARCHS = {
    "osnet": ("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25"),
    "cdnet": (
        *("cdnet", "cdnet_top1", "cdnet_top2", "cdnet_top3", "cdnet_top4"),
        *("cnet_top1", "cnet_top2", "cnet_top3", "cnet_top4"),
    ),
}


def family(arch):
    """`"osnet"`, `"cdnet"`, whose CNets are, or `None` of another network.

    Args:
        arch: String.
    """
    return next((name for name, archs in ARCHS.items() if arch in archs), None)


def of_reid(arch, start):
    """The settings of re-identification that these networks have of their own.

    Args:
        arch: String, of one of `ARCHS`.
        start: `"random"`, `"imagenet"` or `None`, which is the first.

    Returns:
        Dict from name to (value, source).
    """
    of_family = family(arch)
    settings = {
        **REID[of_family, "imagenet" if start == "imagenet" else "random"],
        "decay": (0.1, "of both"),
        **_FOR_REID,
    }
    if of_family == "osnet":
        del settings["width"]  # which its name says
    return settings
