"""CIFAR-100 as in the paper: Table 1, supplements D (sampling), E (corrupt labels) and F (dropout).

    python recipes/cifar100.py --arch densenet100                              # one training with DHM
    python recipes/cifar100.py --arch resnet32 --method baseline,dsl,dhm --seeds 5    # a row of Table 1
    python recipes/cifar100.py --arch resnet32 --sampling bernoulli --seeds 5         # supplement D
    python recipes/cifar100.py --arch wrn28_10 --method baseline,dhm --corrupt 0.2    # supplement E
    python recipes/cifar100.py --arch wrn28_10 --method baseline,dhm --dropout 0.3    # supplement F
    python recipes/cifar100.py --arch resnet32 --method aux1,aux2,dhm          # each branch alone, as in Table 5
    python recipes/cifar100.py --arch wrn28_10 --devices 4                     # four GPUs
    python recipes/cifar100.py --arch resnet32 --on_device                     # a small network on a large GPU
    python recipes/cifar100.py --arch cdnet --method baseline                  # CDNet as its authors train it; or OSNet
    python recipes/cifar100.py --arch resnet20 --smoke                         # two short epochs: does it work?

The recipe prints what it trains with and where each number is from; by default that is what the paper has for the
network. Data: `--data_dir` is the official binary release (cifar-100-binary.tar.gz, or its unpacked folder); without it
tensorflow-datasets downloads 169 MB. Prints top-1 and top-5 errors of every head after the best and the last epoch, and
draws `curves.png`. The folder of a run holds its config, history, best weights, last model, TensorBoard logs and the
exported main head. A second start with the same settings keeps the runs that are finished, and goes on where one was
stopped, or killed.

The networks of Table 1 are meant for a GPU: on two CPU cores an epoch of ResNet-32 with branches takes five minutes, of
the others more. Runs with KERAS_BACKEND=jax too, also where TensorFlow is not installed: no TensorBoard, no export.
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
experiment.define_flags("cifar100", default_arch="resnet32", most_examples=50_000)
flags.DEFINE_string("data_dir", None, "cifar-100-binary.tar.gz or its unpacked folder. Default: tensorflow-datasets.")
flags.DEFINE_float("dropout", None, "Dropout rate in a WRN's blocks, or of a CDNet's features.", 0.0, 0.99)
flags.DEFINE_boolean("on_device", False, "Keep the images on the one GPU, and take up to 25 steps a call.")


def load(settings):
    """`(train_images, train_labels), (test_images, test_labels)`; of the training labels a share is redrawn."""
    n = settings["train_examples"]
    if FLAGS.data_dir:
        (images, labels), test = dhm.data.cifar100(FLAGS.data_dir, n)
    else:
        (images, labels), test = dhm.data.from_tfds("cifar100", n, download=True)
    labels = dhm.data.corrupt_labels(labels, settings["corrupt"], num_classes=100, seed=0)  # the same for every run
    if FLAGS.smoke:
        test = test[0][:n], test[1][:n]
    print(f"Data: {FLAGS.data_dir or 'tensorflow-datasets'}, {len(labels)} training, {len(test[1])} test images")
    return (images, labels), test


def batches(config, data):
    """The training batches of a run, and what it is validated on."""
    (images, labels), test = data
    size, seed = config["batch_size"], config["seed"]
    more = {"cutout": config["cutout"]} if config.get("cutout") else {}
    train = dhm.data.TrainBatches(images, labels, size, pad=4, flip=True, seed=seed, on_device=FLAGS.on_device, **more)
    return train, {"validation_data": test, "validation_batch_size": 500}


def measured(config, data):
    """The training images that `--agreement` measures on, with the labels that are trained on."""
    (images, labels), _ = data
    return images[:256], labels[:256]


def of_network(config):
    """What networks are built with of their own: OSNet and CDNet are made for larger images."""
    own = family(config["arch"])
    arguments = {"stem": 3, "input_shape": (32, 32, 3)} if own else {}
    arguments |= {"task": "classification"} if own == "cdnet" else {}
    return arguments | ({"dropout": config["dropout"]} if config["arch"].startswith("wrn") or own == "cdnet" else {})


def check():
    """A sentence about a flag that the network does not heed, or `None`."""
    if FLAGS.dropout and not FLAGS.arch.startswith("wrn") and family(FLAGS.arch) != "cdnet":
        return f"--dropout is of WRNs and CDNets, {FLAGS.arch} has none. Leave it out, or choose --arch wrn28_10."
    if FLAGS.on_device and family(FLAGS.arch) == "cdnet":
        return f"--on_device has no cutout, which {FLAGS.arch} is trained with. Leave it out."
    if FLAGS.on_device and (FLAGS.devices or 1) > 1:
        return f"--on_device is for one device. Received: --devices {FLAGS.devices}."
    return None


RECIPE = Classification(
    name="cifar100",
    title="CIFAR-100",
    smoke={"epochs": 2, "train_examples": 256},
    normalization=dhm.data.CIFAR100_MEAN_STD,
    notes={
        "augmentation": ("pad 4, crop 32, flip", PAPER),
        "normalization": ("CIFAR-100's", "the paper; the authors' release takes CIFAR-10's mean and deviation"),
    },
    load=load,
    batches=batches,
    images=lambda data: [len(labels) for _, labels in data],
    measured=measured,
    class_names=lambda data: dhm.data.CIFAR100_CLASS_NAMES,
    check=check,
    of_network=of_network,
)


def main(arguments):
    experiment.main(RECIPE, arguments)


if __name__ == "__main__":
    app.run(main)
