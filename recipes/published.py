"""The numbers that the paper publishes, and which runs of ours would stand beside each.

A table is data: a row has its labels, the published numbers, and what the config of a run says that repeats it. What a
row does not name is as in `protocols.py`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        labels: Tuple of strings, the row's first cells.
        published: Tuple, for each of the table's metrics `(mean,)` or `(mean, standard deviation)`.
        condition: Dict from a setting to its value in the config of a run.
        head: String. The head of the run that the numbers are of. Defaults to `"main"`.
    """

    labels: tuple
    published: tuple
    condition: dict
    head: str = "main"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper, or numbers of its text in the form of one.

    Args:
        name: String, the place in the paper.
        title: String.
        columns: Tuple of strings, the names of the rows' labels.
        metrics: Tuple of keys of `METRICS`.
        rows: Tuple of `Row`.
        notes: Tuple of sentences.
        seeds: Integer, how many the paper has, or `None` where it does not say. Defaults to `None`.
        digits: Integer, decimals. Defaults to 3.
    """

    name: str
    title: str
    columns: tuple
    metrics: tuple
    rows: tuple
    notes: tuple = ()
    seeds: int | None = None
    digits: int = 3


OF_RECIPE = {"reid": ("map", "rank1")}  # the metrics of a recipe's runs
OTHERS = ("top1_error", "top5_error")  # those of others
METRICS = {  # the name in a table, and which way is better; all in per cent
    "top1_error": ("top-1 error", "lower"),
    "top5_error": ("top-5 error", "lower"),
    "top1_accuracy": ("top-1 accuracy", "higher"),
    "map": ("mAP", "higher"),
    "rank1": ("rank-1", "higher"),
}
RECIPES = {"cifar100": "CIFAR-100", "imagenet": "ImageNet", "reid": "person re-identification", "digits": "digits"}
ARCHITECTURES = {
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "resnet56": "ResNet-56",
    "resnet110": "ResNet-110",
    "resnet1202": "ResNet-1202",
    "densenet40": "DenseNet (d=40, k=12)",
    "densenet100": "DenseNet (d=100, k=12)",
    "densenetbc100": "DenseNet-BC (d=100, k=12)",
    "wrn16_8": "WRN-16-8",
    "wrn28_10": "WRN-28-10",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnet152": "ResNet-152",
    "mobilenet": "MobileNet",
    "osnet_x1_0": "OSNet x1.0",
    "osnet_x0_75": "OSNet x0.75",
    "osnet_x0_5": "OSNet x0.5",
    "osnet_x0_25": "OSNet x0.25",
    "cdnet": "CDNet",
    **{f"{kind}net_top{k}": f"{kind.upper()}Net (top {k})" for kind in ("cd", "c") for k in (1, 2, 3, 4)},
}
BACKBONES = {"resnet14": "ResNet-14", "convnet": "plain CNN"}  # of the digits
METHODS = {
    "baseline": "baseline",
    "dsl": "DSL",
    "dhm": "DHM",
    "aux1": "aux1 alone",
    "aux2": "aux2 alone",
    "aux3": "aux3 alone",
}


def names_of(metrics):
    """The names of some metrics, as `"top-1 / top-5 error"`.

    Args:
        metrics: Tuple of keys of `METRICS`.
    """
    names = [METRICS[metric][0] for metric in metrics]
    if all(name.endswith(" error") for name in names):
        names = [name.removesuffix(" error") for name in names[:-1]] + names[-1:]
    return " / ".join(names)


def _comparison(recipe, published):
    """A row for each method of each network, from `{arch: the numbers of baseline, DSL and DHM}`."""
    return tuple(
        Row((ARCHITECTURES[arch], METHODS[method]), numbers, {"recipe": recipe, "arch": arch, "method": method})
        for arch, of_methods in published.items()
        for method, numbers in zip(("baseline", "dsl", "dhm"), of_methods, strict=True)
    )


def _wrn(method, numbers, label, **settings):
    condition = {"recipe": "cifar100", "arch": "wrn28_10", "method": method, **settings}
    return Row((label, METHODS[method]), (numbers,), condition)


def _resnet18(labels, published, method, head="main", **settings):
    return Row(labels, published, {"recipe": "imagenet", "arch": "resnet18", "method": method, **settings}, head)


def _reid(data, network, published, arch, **settings):
    return tuple(
        Row(
            (data, network, METHODS[method]),
            ((mean_ap,), (rank1,)),
            {"recipe": "reid", "arch": arch, "method": method, **settings},
        )
        for method, (mean_ap, rank1) in zip(("baseline", "dsl", "dhm"), published, strict=True)
    )


EPOCH = (
    "On ImageNet the paper's numbers are those of the best epoch on the validation set (section 4.1.2); for CIFAR-100 "
    "it does not say, and its authors' release keeps the best."
)
DISAGREEMENT = (
    "The paper disagrees with itself: the top-1 error of ResNet-18 with DHM is 28.714 in Table 2, and 28.814 in Tables "
    "4 and 5 and in section 4.3.1, which quotes Table 2."
)


def _own(data, mean_ap, rank1, arch, **settings):
    """A row of OSNet's and CDNet's own results; the labels say the network and what it starts from."""
    start = "pretrained" if settings.get("start") == "imagenet" else "from scratch"
    condition = {"recipe": "reid", "arch": arch, "method": "baseline", **settings}
    return Row((data, ARCHITECTURES[arch], start), ((mean_ap,), (rank1,)), condition)


def _scaled(width, size, mean_ap, rank1):
    """A cell of CDNet's Table 3; the settings that are CDNet's own anyway stand in no condition."""
    settings = {**({"width": width} if width != 1 else {}), **({"image_size": size} if size != "256x128" else {})}
    condition = {"recipe": "reid", "arch": "cdnet", "method": "baseline", "start": "imagenet", **settings}
    return Row((str(width), size), ((mean_ap,), (rank1,)), condition)


_SIZES = ("256x128", "192x96", "128x64", "64x32")
_CDNET_TABLE_3 = {  # (mAP, rank-1) at each size
    1.0: ((86.0, 95.1), (85.0, 94.7), (82.3, 93.3), (69.5, 86.9)),
    0.75: ((85.1, 94.7), (84.3, 94.2), (81.4, 93.1), (69.3, 86.8)),
    0.5: ((83.8, 93.4), (83.5, 93.9), (80.3, 92.5), (66.4, 84.3)),
    0.25: ((79.7, 91.7), (78.8, 91.8), (75.0, 89.3), (59.4, 79.6)),
}

TABLES = (
    Table(
        name="Table 1",
        title="CIFAR-100",
        columns=("Architecture", "Method"),
        metrics=("top1_error",),
        seeds=5,
        rows=_comparison(
            "cifar100",
            {
                "resnet32": [((30.306, 0.207),), ((30.174, 0.282),), ((27.404, 0.255),)],
                "resnet110": [((28.598, 0.806),), ((28.352, 0.908),), ((26.312, 0.603),)],
                "resnet1202": [((28.872, 1.218),), ((27.632, 0.923),), ((24.860, 1.546),)],
                "densenet40": [((24.830, 0.116),), ((24.650, 0.414),), ((23.112, 0.247),)],
                "densenet100": [((21.166, 0.259),), ((20.656, 0.274),), ((19.912, 0.201),)],
                "wrn16_8": [((20.488, 0.101),), ((20.052, 0.275),), ((18.754, 0.107),)],
                "wrn28_10": [((19.024, 0.125),), ((18.046, 0.264),), ((17.200, 0.224),)],
            },
        ),
        notes=(
            "Ours train WRNs with a weight decay of 5e-4 and DenseNets with batches of 64, as the authors' release "
            "and these networks' own papers do; the paper's text has 1e-4 and 128 for all.",
        ),
    ),
    Table(
        name="Table 2",
        title="ImageNet, validation set, single centre crop",
        columns=("Architecture", "Method"),
        metrics=("top1_error", "top5_error"),
        rows=_comparison(
            "imagenet",
            {
                "resnet18": [((30.046,), (10.752,)), ((29.728,), (10.450,)), ((28.714,), (9.940,))],
                "resnet50": [((23.990,), (7.166,)), ((23.874,), (7.074,)), ((23.430,), (6.764,))],
                "resnet101": [((22.636,), (6.362,)), ((22.260,), (6.128,)), ((21.348,), (5.684,))],
                "resnet152": [((21.894,), (5.886,)), ((21.602,), (5.824,)), ((20.810,), (5.396,))],
            },
        ),
        notes=(
            DISAGREEMENT,
            'Under DHM the paper trains "relatively shallow" ResNets without scale augmentation, and does not say '
            "which; ours are ResNet-18 and ResNet-50.",
        ),
    ),
    Table(
        name="Table 3",
        title="Person re-identification, single query",
        columns=("Data", "Architecture", "Method"),
        metrics=("map", "rank1"),
        digits=1,
        rows=(
            *_reid("Market-1501", "ResNet-50 (w/ pretrain)", [(70.3, 88.5), (72.0, 88.2), (76.7, 90.3)], "resnet50"),
            *_reid("Market-1501", "MobileNet (w/o pretrain)", [(55.6, 78.2), (55.6, 77.4), (59.1, 79.0)], "mobilenet"),
            *_reid(
                "DukeMTMC-reID",
                "ResNet-50 (w/ pretrain)",
                [(59.4, 78.2), (60.5, 78.8), (65.4, 81.1)],
                "resnet50",
                dataset="duke",
            ),
            *_reid(
                "DukeMTMC-reID",
                "MobileNet (w/o pretrain)",
                [(45.7, 69.0), (46.9, 68.7), (50.6, 70.5)],
                "mobilenet",
                dataset="duke",
            ),
        ),
    ),
    Table(
        name="Section 4.3.1",
        title="Direction of the mimicking, ImageNet, ResNet-18",
        columns=("Method",),
        metrics=("top1_error",),
        rows=(
            _resnet18(("baseline",), ((30.046,),), "baseline"),
            _resnet18(("DSL",), ((29.728,),), "dsl"),
            _resnet18(("DHM, bottom-up",), ((29.670,),), "dhm", direction="bottom_up"),
            _resnet18(("DHM, top-down",), ((29.385,),), "dhm", direction="top_down"),
            _resnet18(("DHM, both",), ((28.814,),), "dhm"),
        ),
        notes=(DISAGREEMENT,),
    ),
    Table(
        name="Table 4",
        title="Branches kept, ImageNet, ResNet-18, DHM",
        columns=("Side branches",),
        metrics=("top1_error", "top5_error"),
        rows=(
            _resnet18(("B0 (no branch: the baseline)",), ((30.046,), (10.752,)), "baseline"),
            _resnet18(("B1 (aux1)",), ((29.276,), (10.272,)), "dhm", branches=("aux1",)),
            _resnet18(("B2 (aux2)",), ((29.248,), (10.258,)), "dhm", branches=("aux2",)),
            _resnet18(("B1 & B2",), ((28.814,), (9.940,)), "dhm"),
            _resnet18(("B1 & B2 & B3",), ((29.220,), (10.044,)), "dhm", branches=("aux1", "aux2", "aux3")),
        ),
        notes=(DISAGREEMENT,),
    ),
    Table(
        name="Table 5",
        title="Each branch trained independently and mimicking, ImageNet, ResNet-18",
        columns=("Branch", "Method"),
        metrics=("top1_error", "top5_error"),
        rows=(
            _resnet18(("B0 (main)", "independent"), ((30.046,), (10.752,)), "baseline"),
            _resnet18(("B0 (main)", "mimicking"), ((28.814,), (9.940,)), "dhm"),
            _resnet18(("B1 (aux1)", "independent"), ((27.988,), (9.560,)), "aux1"),
            _resnet18(("B1 (aux1)", "mimicking"), ((27.626,), (9.176,)), "dhm", head="aux1"),
            _resnet18(("B2 (aux2)", "independent"), ((31.458,), (11.522,)), "aux2"),
            _resnet18(("B2 (aux2)", "mimicking"), ((29.544,), (10.370,)), "dhm", head="aux2"),
        ),
        notes=(
            DISAGREEMENT,
            "Ours: the best epoch of a mimicking branch is main's, of an independent one its own. The paper does not "
            "say.",
        ),
    ),
    Table(
        name="Supplement D",
        title="Branches sampled with probability 0.5, CIFAR-100",
        columns=("Architecture", "Method"),
        metrics=("top1_error",),
        seeds=5,
        rows=(
            Row(
                (ARCHITECTURES["resnet32"], "DHM, Bernoulli(0.5)"),
                ((27.002, 0.316),),
                {"recipe": "cifar100", "arch": "resnet32", "method": "dhm", "sampling": "bernoulli"},
            ),
        ),
    ),
    Table(
        name="Supplement E",
        title="Corrupt training labels, CIFAR-100, WRN-28-10",
        columns=("Labels redrawn", "Method"),
        metrics=("top1_accuracy",),
        seeds=5,
        rows=(
            _wrn("baseline", (71.122, 0.269), "20 %", corrupt=0.2),
            _wrn("dhm", (74.528, 0.433), "20 %", corrupt=0.2),
            _wrn("baseline", (61.268, 0.311), "50 %", corrupt=0.5),
            _wrn("dhm", (64.226, 0.300), "50 %", corrupt=0.5),
        ),
        notes=("Accuracies, as the paper prints them; all other tables of CIFAR-100 are errors.",),
    ),
    Table(
        name="Supplement F",
        title="Dropout, CIFAR-100",
        columns=("Architecture", "Method"),
        metrics=("top1_error",),
        seeds=5,
        rows=(
            _wrn("baseline", (18.698, 0.154), "WRN-28-10, dropout 0.3", dropout=0.3),
            _wrn("dhm", (16.790, 0.110), "WRN-28-10, dropout 0.3", dropout=0.3),
        ),
    ),
    Table(
        name="OSNet and CDNet",
        title="Person re-identification by their own papers and authors' code, single query",
        columns=("Data", "Architecture", "Start"),
        metrics=("map", "rank1"),
        digits=1,
        rows=(
            _own("Market-1501", 81.0, 93.6, "osnet_x1_0"),
            _own("Market-1501", 84.9, 94.8, "osnet_x1_0", start="imagenet"),
            _own("Market-1501", 83.5, 93.6, "cnet_top2"),
            _own("Market-1501", 83.7, 93.7, "cdnet"),
            _own("Market-1501", 86.0, 95.1, "cdnet", start="imagenet"),
            _own("DukeMTMC-reID", 73.2, 86.0, "cnet_top2", dataset="duke"),
            _own("DukeMTMC-reID", 73.9, 86.7, "cdnet", dataset="duke"),
            _own("DukeMTMC-reID", 76.8, 88.6, "cdnet", start="imagenet", dataset="duke"),
        ),
    ),
    Table(
        name="CDNet, Table 3",
        title="CDNet of several widths, images of several sizes, Market-1501, single query",
        columns=("Width", "Images"),
        metrics=("map", "rank1"),
        digits=1,
        rows=tuple(
            _scaled(width, size, *numbers)
            for width, cells in _CDNET_TABLE_3.items()
            for size, numbers in zip(_SIZES, cells, strict=True)
        ),
    ),
)
