"""Person re-identification: Table 3 of the paper, OSNet, CDNet; on Market-1501, DukeMTMC, your images, or drawn ones.

    python recipes/reid.py --dataset synthetic --image_size 64x32 --epochs 30       # no data needed
    python recipes/reid.py --data_dir Market-1501-v15.09.15                               # MobileNet with DHM
    python recipes/reid.py --data_dir DIR --method baseline,dsl,dhm                       # a row of Table 3
    python recipes/reid.py --data_dir DIR --arch resnet50 --weights resnet50-11ad3fa6.pth # from torchvision's weights
    python recipes/reid.py --dataset duke --data_dir DukeMTMC-reID
    python recipes/reid.py --dataset folder --data_dir DIR --pattern '(?P<pid>\\d+)_c(?P<camid>\\d+)'
    python recipes/reid.py --dataset folder --data_dir people.csv                         # path, pid, camid, split
    python recipes/reid.py --data_dir DIR --arch osnet_x1_0 --method baseline  # OSNet from scratch
    python recipes/reid.py --data_dir DIR --arch osnet_x1_0 --method baseline --start imagenet --weights FILE
    python recipes/reid.py --data_dir DIR --arch cdnet --method baseline  # or dhm: with branches
    python recipes/reid.py --data_dir DIR --arch cdnet --method baseline --width 0.5 --image_size 128x64  # Table 3
    python recipes/reid.py --data_dir DIR --arch cdnet --method baseline --genotype runs/search/.../genotype.json
    python recipes/reid.py --dataset synthetic --smoke

The recipe prints what it trains with and where each number is from. Prints mAP, mINP and rank-1, 5 and 10 of the pooled
features of main, single query and, where a data set has the images for it, multi query, after the best and the last
epoch; draws `cmc.png`. The folder of a run is as that of `recipes/cifar100.py`; in it are `embeddings.npz`, the
features of query and gallery, `ranking.png`, what is found for some queries, and `serving/`, whose signatures give the
embedding.

Nothing is downloaded. Meant for a GPU: MobileNet on Market-1501 is 90 epochs of 12,928 images at 0.7 billion
multiply-adds each, forward. Runs with KERAS_BACKEND=jax too, also where TensorFlow is not installed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import dataclasses
import hashlib
import json

import keras
import numpy as np
from absl import app, flags

import dhm_keras as dhm
import experiment
import persons
import protocols
from dhm_keras import files, reid
from dhm_keras.reid.validation import RANKS
from own_protocols import family
from persons import check_images, read, size_of
from protocols import PAPER_REID, TORCHREID
from published import TABLES
from run_folders import card_of, find

FLAGS = flags.FLAGS
experiment.define_flags("reid", default_arch="mobilenet", checkpoint_every=200)
persons.define_flags()
flags.DEFINE_enum("start", None, ("imagenet", "random"), "The weights that main begins with.")
flags.DEFINE_string(
    "weights", None, "Of --start imagenet: a file of torchvision's ResNet-50 or torchreid's OSNet; of CDNet .keras."
)
flags.DEFINE_integer("new_layers_epochs", None, "Epochs before the others in which only new layers learn.", 0)
flags.DEFINE_float("label_smoothing", None, "Share of the label that goes to all persons alike.", 0.0, 0.99)
flags.DEFINE_float("erasing", None, "Probability of random erasing.", 0.0, 1.0)
flags.DEFINE_enum("metric", None, ("euclidean", "cosine"), "What features are compared by.")
flags.DEFINE_integer("evaluate_every", None, "Epochs from one evaluation to the next.", lower_bound=1)
flags.DEFINE_integer("last_stride", None, "Of MobileNet's last depthwise convolution.", 1, 2)
flags.DEFINE_string("genotype", None, "Of --arch cdnet: a file that recipes/search.py wrote.")
flags.DEFINE_float("width", None, "Of CDNet and CNet: multiplier of the channels.", 0.25, 4.0)
flags.DEFINE_enum(
    "neck", None, ("dense", "blneck", "fblneck"), "Of OSNet dense or fblneck, of CDNet blneck or fblneck."
)
flags.DEFINE_integer("images_of_each", None, "Of OSNet and CDNet: images of each person in a batch; 0: shuffled.", 0)
flags.DEFINE_float("triplet_weight", None, "Of OSNet and CDNet: weight of the triplet loss.", 0.0)
flags.DEFINE_enum(
    "on_corrupt", "raise", ("raise", "skip"), "A training image that cannot be decoded stops it, or is left out."
)

TITLES = {"market1501": "Market-1501", "duke": "DukeMTMC-reID", "folder": "Persons", "synthetic": "Synthetic persons"}
OF_NEW_LAYERS = 2**20  # added to the seed: their epochs have an order of their own
QUERIES = 6  # in ranking.png
NEW = ("main_local", *experiment.ALONE)  # what a CDNet has not learnt on ImageNet, or learns anew: branches
OF_EXPERIMENT = ("arch", "dataset", "start", "width", "image_size")  # what tells the published ones apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReID(experiment.Recipe):
    """The recipe of person re-identification, whose results are mAP and CMC of main's features."""

    def identify(self, settings):
        people = read(settings["dataset"], FLAGS.smoke)
        splits = (people.train, people.query, people.gallery)
        data = [[images.checksum, images.pids.tolist(), np.array(images.camids).tolist()] for images in splits]
        identity = {"data": hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]}
        identity |= {"start_weights": files.sha256(FLAGS.weights)[:16]} if FLAGS.weights else {}
        return identity | ({"genotype": dhm.models.read_genotype(FLAGS.genotype)} if FLAGS.genotype else {})

    def train(self, run, data, epochs_after):
        config, seed = run.config, run.config["seed"]
        keras.config.set_dtype_policy(config["precision"])
        keras.utils.set_random_seed(seed)
        network = build(config, data)
        names = data.train.class_names
        objective = experiment.objective_of(config) | experiment.triplets_of(config)
        model = dhm.DHM(network, **objective, class_names=names, name=run.folder.name)
        callbacks = experiment.callbacks_of(run, epochs_after, lambda: measured(config, data), monitor="val_mAP")
        train_new_layers(model, run, data)
        batches = train_batches(config, data, seed)
        model.compile(optimizer=optimizer_of(config, experiment.schedule_of(config, batches.steps_per_epoch)))
        evaluate = reid.EvaluateReID(data.query, data.gallery, config["evaluate_every"], metric=config["metric"])
        callbacks = [evaluate, *callbacks]  # its logs are for the others
        if config["backend"] == "tensorflow":
            shipped = {"crop": None, "embedding": True, "card": card_of(config, images_of(data))}
            callbacks.append(dhm.callbacks.ExportMain(run.path("serving"), **shipped))
        history = model.fit(batches, epochs=config["epochs"], callbacks=callbacks, verbose=0).history
        told = {"images": images_of(data), **experiment.skipped(batches)}
        if dhm.distribute.is_chief():
            told |= dhm.distribute.alone(lambda: look_closely(run, model, data))
        run.finish(model, {**best_and_last(history), **told})

    def print_table(self, runs):
        """mAP and CMC after the last and the best epoch."""
        of_paper = published(next(run.config for of_method in runs.values() for run in of_method))
        print("\nSingle query, %: mean (standard deviation over the seeds)")
        print(f"{'':<9}{'last epoch':>14}{'':>56}  {'best epoch':>14}{'':>14}{'     the paper' if of_paper else ''}")
        titles = ("mAP", "rank-1", "rank-5", "rank-10", "mINP", "  mAP", "rank-1", *(("mAP  R-1",) if of_paper else ()))
        print(f"{'method':<9}{''.join(f'{title:>14}' for title in titles)}")
        for method, of_method in runs.items():
            cells = [
                dhm.analysis.mean_std([run.result[when][f"main_{name}"] for run in of_method])
                for when, names in (("last", ("map", "rank1", "rank5", "rank10", "minp")), ("best", ("map", "rank1")))
                for name in names
            ]
            cells[5] = f"  {cells[5]:>14}"
            cells += ["{} {}".format(*of_paper[method])] if method in of_paper else []
            print(f"{method:<9}{''.join(f'{cell:>14}' for cell in cells)}")
            results = [run.result.get("multi_query") for run in of_method]
            if None not in results:
                cells = (
                    dhm.analysis.mean_std([result[f"main_{name}"] for result in results]) for name in ("map", "rank1")
                )
                print("{:<9}{:>14}{:>14}  multi query".format("", *cells))
        print("The best epoch has the highest mAP on the test set, which chooses it; the last is not chosen at all.\n")

    def draw_figures(self, folder):
        """Draws `cmc.png`, and with `--agreement` `agreement.png`, of all the finished runs in the folder."""
        try:
            runs = find(folder)
            curves = {method: np.mean([run.result["cmc"] for run in of], axis=0) for method, of in runs.items()}
            title = f"{TITLES[next(iter(runs.values()))[0].config['dataset']]}, {FLAGS.arch}"
            reid.plot_cmc(curves, folder / "cmc.png", title)
            print(f"CMC curves: {folder}/cmc.png")
            experiment.draw_agreement(runs, folder, title)
        except (ImportError, ValueError) as error:  # runs of other settings in the same folder, among others
            print(f"No figures: {error}")


def load(settings):
    """The `PersonSet` to train and test on, whose test images can all be decoded; a share of the labels is redrawn."""
    people, n = read(settings["dataset"], FLAGS.smoke), settings["train_examples"]
    train = people.train
    if n is not None and n > len(train) and not FLAGS.smoke:
        raise ValueError(f"There are {len(train)} training images. Give --train_examples as many, or fewer, not {n}.")
    train = train.subset(None if n is None else min(n, len(train)))
    if settings["batch_size"] > len(train):
        raise ValueError(f"There are {len(train)} training images. Give a --batch_size of as many, or fewer.")
    train = train.with_labels(dhm.data.corrupt_labels(train.labels, settings["corrupt"], train.num_classes, seed=0))
    people = dataclasses.replace(people, train=train)
    print(people)
    check_images(people)
    return people


def images_of(people):
    """The numbers of images to train on, to search for, and to search in."""
    return [len(images) for images in (people.train, people.query, people.gallery)]


def train_batches(config, people, seed):
    """The training batches: shuffled images, or several of each of some persons."""
    common = {name: config[name] for name in ("erasing", "label_smoothing", "patch") if name in config}
    common |= {"crop": "pad" if config.get("crop") == "pad" else True, "image_size": size_of(config)}
    common |= {"seed": seed, "on_corrupt": FLAGS.on_corrupt}
    if of_each := config.get("images_of_each"):
        return reid.IdentityBatches(people.train, config["batch_size"] // of_each, of_each, **common)
    return reid.PersonTrainBatches(people.train, config["batch_size"], **common)


def measured(config, people):
    """The training images that `--agreement` measures on, spread over the persons, with the labels trained on."""
    train, n = people.train, min(128, len(people.train))
    rows = np.arange(n) * len(train) // n
    files = dhm.data.ImageFiles(train.folder, [train.names[i] for i in rows], train.labels[rows], train.class_names)
    images, labels = reid.PersonTestBatches(files, n, size_of(config), FLAGS.on_corrupt)[0]
    return images, train_batches(config, people, config["seed"]).targets(labels)


def build(config, people):
    """The network of a run; main with ImageNet's weights where the config says so."""
    names = ("last_stride", "width", "neck", "dropout", "genotype")
    network = experiment.build(
        config,
        num_classes=people.train.num_classes,
        input_shape=(*size_of(config), 3),
        normalization=RECIPE.normalization,
        **{name: config[name] for name in names if name in config},
    )
    if config["start"] == "imagenet":
        load_weights(network, config)
    return network


def load_weights(network, config):
    """Loads `--weights` into main: PyTorch's file, of CDNet the last model of a training on ImageNet."""
    if family(config["arch"]) != "cdnet":
        dhm.interop.load_torch(network, FLAGS.weights, heads=("main",), classifier=False)
        return
    source = keras.models.load_model(FLAGS.weights, compile=False)
    names = [layer.name for each in (network, getattr(source, "network", source)) for layer in each.layers]
    begin_anew = [part for part in NEW if any(name.startswith(part) for name in names)]
    dhm.interop.transfer(network, source, without=tuple(begin_anew))


def optimizer_of(config, learning_rate):
    """SGD, or AMSGrad, both as in PyTorch, with decay on all variables."""
    if config.get("optimizer") == "sgd":
        return dhm.optimizers.SGD(learning_rate, config["momentum"], weight_decay=config["weight_decay"])
    return dhm.optimizers.Adam(learning_rate, amsgrad=True, weight_decay=config["weight_decay"])


def train_new_layers(model, run, people):
    """Before all: the classifiers and the branches learn, what has weights already stays as it is."""
    config = run.config
    if config["start"] != "imagenet" or not config["new_layers_epochs"]:
        return
    batches = train_batches(config, people, config["seed"] + OF_NEW_LAYERS)
    with reid.new_layers_only(model.network):
        model.compile(optimizer=optimizer_of(config, config["learning_rate"]))
        resume = dhm.callbacks.Resume(run.path("checkpoints/new_layers"), FLAGS.checkpoint_every)
        print(f"{run.folder.name}: {config['new_layers_epochs']} epochs of the new layers alone", flush=True)
        progress = dhm.callbacks.Progress(config["epochs"])
        model.fit(batches, epochs=config["new_layers_epochs"], callbacks=[progress, resume], verbose=0)


def best_and_last(history):
    """The results after the epoch with the highest mAP and the last, each `epoch` (from 1) and numbers in per cent."""
    names = {"main_map": "val_mAP", "main_minp": "val_mINP", **{f"main_rank{k}": f"val_rank{k}" for k in RANKS}}
    evaluated = [index for index, value in enumerate(history["val_mAP"]) if np.isfinite(value)]
    best = max(evaluated, key=lambda index: history["val_mAP"][index])
    return {
        when: {"epoch": index + 1, **{name: 100 * history[log][index] for name, log in names.items()}}
        for when, index in (("best", best), ("last", evaluated[-1]))
    }


def look_closely(run, model, people):
    """Saves the features and draws what is found for some queries; returns the CMC curve, and multi-query's numbers."""
    metric, extractor = run.config["metric"], reid.Extractor(model)
    query, gallery = extractor(people.query), extractor(people.gallery)
    arrays = {"query_features": query, "gallery_features": gallery}
    for name, images in (("query", people.query), ("gallery", people.gallery)):
        arrays |= {f"{name}_pids": images.pids, f"{name}_names": np.array(images.names)}
        arrays |= {} if images.camids is None else {f"{name}_camids": images.camids}
    with files.replacing(run.folder / "embeddings.npz") as partial:
        np.savez(partial, **arrays)
    of_gallery = people.gallery.pids, people.query.camids, people.gallery.camids
    found = reid.evaluate(query, gallery, people.query.pids, *of_gallery, metric=metric)
    rows = np.flatnonzero(found.valid)
    rows = rows[:: max(1, len(rows) // QUERIES)][:QUERIES]
    order, distances = reid.search(query[rows], gallery, k=min(100, len(gallery)), metric=metric)
    try:
        reid.plot_ranking(people.query.take(rows), people.gallery, order, run.path("ranking.png"), distances)
    except ImportError as error:
        print(f"No picture of the ranking: {error}")
    told = {"cmc": found.cmc.tolist()}
    if people.multi_query is not None:
        several, of_query = people.multi_query, (people.query.pids, people.query.camids)
        mean = reid.mean_features(extractor(several), several.pids, several.camids, *of_query)
        multi = reid.evaluate(mean, gallery, people.query.pids, *of_gallery, metric=metric)
        told["multi_query"] = {"main_map": 100 * multi.mean_ap, "main_rank1": 100 * multi.rank(1)}
    return told


def published(settings):
    """The published mAP and rank-1 of an experiment, a dict from method; empty if there is none.

    Args:
        settings: Dict, with the arch, as of a run's config.
    """
    found = {}
    for row in (row for table in TABLES for row in table.rows if row.condition["recipe"] == "reid"):
        of_arch = protocols.settings_of("reid", row.condition["arch"])
        expected = {**{name: value for name, (value, _) in of_arch.items()}, **row.condition}
        if all(settings.get(name) == expected.get(name) for name in OF_EXPERIMENT):
            found[row.condition["method"]] = [mean for (mean,) in row.published]
    return found


def check():
    """A sentence about the first wrong flag of this recipe, or `None`."""
    return persons.check_flags() or check_start() or check_network()


def check_start():
    """A sentence about the first wrong flag of the weights that main begins with, or `None`."""
    start = FLAGS.start or {"resnet50": "imagenet"}.get(FLAGS.arch, "random")
    alone = [method for method in FLAGS.method if method in experiment.ALONE]
    if start == "imagenet" and FLAGS.arch == "mobilenet":
        return "--start imagenet is of --arch resnet50, OSNet and CDNet; the paper has none of mobilenet."
    if start == "imagenet" and not FLAGS.weights:
        source = {"osnet": "torchreid's", "cdnet": "last.keras of recipes/imagenet.py --arch cdnet"}
        of_arch = source.get(family(FLAGS.arch), "torchvision's")
        return f"--arch {FLAGS.arch} begins with ImageNet's weights: --weights FILE, {of_arch}. Or give --start random."
    if start == "imagenet" and alone:
        return (
            f"--method {alone[0]} is a branch alone, from the image on: it has no weights of ImageNet. --start random."
        )
    if start != "imagenet" and (FLAGS.weights or FLAGS.new_layers_epochs):
        return f"--{'weights' if FLAGS.weights else 'new_layers_epochs'} is of --start imagenet, which this is not."
    if FLAGS.new_layers_epochs and family(FLAGS.arch) == "cdnet":
        return "--new_layers_epochs is of resnet50 and OSNet: a part of what CDNet ships is new, too."
    if FLAGS.weights and family(FLAGS.arch) == "cdnet" and not FLAGS.weights.endswith(".keras"):
        return (
            f"--weights of {FLAGS.arch} is last.keras of recipes/imagenet.py --arch cdnet. Received: {FLAGS.weights}."
        )
    if FLAGS.weights and not os.path.isfile(FLAGS.weights):
        return f"--weights {FLAGS.weights} is no file."
    return None


def check_network():
    """A sentence about the first wrong flag of the network and its batches, or `None`."""
    own = family(FLAGS.arch)
    if FLAGS.last_stride and FLAGS.arch != "mobilenet":
        return f"--last_stride is of --arch mobilenet. Received: --arch {FLAGS.arch}."
    if FLAGS.genotype and FLAGS.arch != "cdnet":
        return f"--genotype is of --arch cdnet. Received: --arch {FLAGS.arch}."
    if FLAGS.width is not None and own != "cdnet":
        return f"--width is of CDNet and CNet, OSNet's is in its name. Received: --arch {FLAGS.arch}."
    for name in ("neck", "images_of_each", "triplet_weight"):
        if FLAGS[name].value is not None and not own:
            return f"--{name} is of OSNet and CDNet. Received: --arch {FLAGS.arch}."
    if FLAGS.neck == {"osnet": "blneck", "cdnet": "dense"}.get(own, ""):
        return f"--neck of OSNet is dense or fblneck, of CDNet blneck or fblneck. Received: {FLAGS.neck}."
    if not own:
        return None
    settings = {name: value for name, (value, _) in experiment.settings_of_flags(RECIPE).items()}
    height, width = size_of(settings)
    least = 32 if settings["neck"] == "fblneck" else 16
    if height % least or width % 16:
        return f"--image_size of {FLAGS.arch} is a multiple of {least} times one of 16. Received: {height}x{width}."
    of_each, batch = settings["images_of_each"], settings["batch_size"]
    if of_each and batch % of_each:
        return f"--batch_size is a multiple of --images_of_each, {of_each}. Received: {batch}."
    if settings["triplet_weight"] and of_each < 2:
        return "--triplet_weight compares images of one person: give --images_of_each 4, too."
    return None


RECIPE = ReID(
    name="reid",
    title="Person re-identification",
    smoke={"epochs": 2, "train_examples": 48, "batch_size": 8, "image_size": "64x32", "evaluate_every": 1},
    normalization=dhm.data.IMAGENET_MEAN_STD,
    notes={
        "augmentation": ("resize, crop, flip", f"{PAPER_REID}; 288x144 for one half, {TORCHREID}"),
        "optimizer": ("AMSGrad, 0.9, 0.999", PAPER_REID),
        "normalization": ("ImageNet's", TORCHREID),
    },
    load=load,
    check=check,
)


def main(arguments):
    notes = {"flip": ("half of the images", "of all"), "normalization": RECIPE.notes["normalization"]}
    experiment.main(dataclasses.replace(RECIPE, notes=notes) if family(FLAGS.arch) else RECIPE, arguments)


if __name__ == "__main__":
    app.run(main)
