"""ImageNet as in the paper: Table 2, and the ablations on ResNet-18 (section 4.3).

    python recipes/imagenet.py --arch resnet50 --data_dir DIR                          # one training with DHM
    python recipes/imagenet.py --arch resnet18 --method baseline,dsl,dhm --data_dir DIR    # a row of Table 2
    python recipes/imagenet.py --direction top_down --data_dir DIR                     # section 4.3.1
    python recipes/imagenet.py --branches aux1,aux2,aux3 --data_dir DIR                # a row of Table 4
    python recipes/imagenet.py --method baseline,aux1,aux2,dhm --data_dir DIR          # Table 5: each branch alone
    python recipes/imagenet.py --data_dir DIR --devices 8 --precision mixed_bfloat16   # eight GPUs
    python recipes/imagenet.py --arch osnet_x1_0 --method baseline --data_dir DIR      # OSNet's supplement; or cdnet
    python recipes/imagenet.py --data_dir DIR --smoke                                  # does it work?

The recipe prints what it trains with and where each number is from. DIR is a folder with `train/CLASS/*.JPEG` and
`val/CLASS/*.JPEG`, as ImageNet is mostly unpacked, or one of the same form with other classes, `--num_classes` of them;
without it tensorflow-datasets gives `imagenet2012`, for which it wants the two archives of image-net.org in its
`downloads/manual` folder. Prints top-1 and top-5 errors of every head after the best and the last epoch, and draws
`curves.png`; the folder of a run is as that of `recipes/cifar100.py`, and a second start goes on the same way.

Meant for GPUs: a training of ResNet-18 with its branches is 90 epochs of 1.28 million images at 3.9 billion
multiply-adds each, forward. Runs with KERAS_BACKEND=jax too, also where TensorFlow is not installed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

from absl import app, flags

import dhm_keras as dhm
import experiment
from classification import Classification
from own_protocols import family
from protocols import PAPER

FLAGS = flags.FLAGS
experiment.define_flags("imagenet", default_arch="resnet18", checkpoint_every=1000)
flags.DEFINE_string("data_dir", None, "Folder with train/CLASS and val/CLASS. Default: tensorflow-datasets.")
flags.DEFINE_integer("image_size", None, "Height and width that the network takes; 256/224 of it are resized to.", 32)
flags.DEFINE_integer("num_classes", None, "Classes that the data have.", lower_bound=2)
flags.DEFINE_enum("augmentation", None, ("auto", "scale", "crop"), "Scale and aspect ratio, or a crop of one scale.")
flags.DEFINE_enum(
    "on_corrupt", "raise", ("raise", "skip"), "An image that cannot be decoded stops the training, or is left out."
)


def load(settings):
    """`(train, val)`, each an `ImageFiles`; of the training labels a share is redrawn."""
    if FLAGS.data_dir:
        train, val = (dhm.data.image_folder(FLAGS.data_dir, split) for split in ("train", "val"))
    else:
        train, val = (dhm.data.imagenet_from_tfds(split, download=True) for split in ("train", "validation"))
    if train.num_classes != settings["num_classes"]:
        raise ValueError(
            f"{train.folder} has {train.num_classes} classes, expected are {settings['num_classes']} (ImageNet has "
            f"1000). Give --num_classes {train.num_classes}, or another folder."
        )
    n = settings["train_examples"]
    if FLAGS.smoke:
        train, val = (images.subset(min(n, len(images))) for images in (train, val))
    elif n is not None and n > len(train):
        raise ValueError(f"There are {len(train)} training images. Give --train_examples as many, or fewer, not {n}.")
    else:
        train = train.subset(n)
    train = train.with_labels(dhm.data.corrupt_labels(train.labels, settings["corrupt"], train.num_classes, seed=0))
    print(
        f"Data: {FLAGS.data_dir or 'tensorflow-datasets'}, {train.num_classes} classes, {len(train)} training, "
        f"{len(val)} validation images"
    )
    return train, val


def batches(config, data):
    """The training batches of a run, and what it is validated on."""
    train, val = data
    size, common = config["image_size"], {"on_corrupt": FLAGS.on_corrupt}
    batches = dhm.data.JpegTrainBatches(
        train, config["batch_size"], size, augmentation=config["augmentation"], seed=config["seed"], **common
    )
    return batches, {"validation_data": dhm.data.JpegTestBatches(val, config["batch_size"], size, **common)}


def measured(config, data):
    """The training images that `--agreement` measures on, spread over the classes, with the labels trained on."""
    files = data[0].subset(min(128, len(data[0])))
    return dhm.data.JpegTestBatches(files, 128, config["image_size"], on_corrupt=FLAGS.on_corrupt)[0]


def of_network(config):
    """CDNet's form for ImageNet."""
    if family(config["arch"]) != "cdnet":
        return {}
    return {"task": "classification", "neck": "blneck", "dropout": config["dropout"]}


RECIPE = Classification(
    name="imagenet",
    title="ImageNet",
    smoke={"epochs": 2, "train_examples": 32, "batch_size": 8, "image_size": 64},
    normalization=dhm.data.IMAGENET_MEAN_STD,
    notes={
        "flip": ("half of the images", PAPER),
        "evaluation": ("resize 256, crop 224", "the paper, single center crop; both 224ths of image_size"),
        "normalization": ("ImageNet's", "the authors' release"),
    },
    load=load,
    batches=batches,
    images=lambda data: [len(files) for files in data],
    measured=measured,
    class_names=lambda data: data[0].class_names,
    crop=224 / 256,
    held_out="validation",
    of_network=of_network,
)


def main(arguments):
    experiment.main(RECIPE, arguments)


if __name__ == "__main__":
    app.run(main)
