"""Does mimicking help where labels lie? Handwritten digits, 40 % of the training labels redrawn at random.

    python recipes/digits.py            # three methods x five seeds
    python recipes/digits.py --smoke    # one seed, two epochs: half a minute
    python recipes/digits.py --agreement    # and whether the heads' gradients agree, epoch by epoch
    python recipes/digits.py --backbone convnet --seeds 10    # a plain Keras CNN, forked: seven minutes

Trains a small ResNet (14 layers, two branches) as baseline, with deep supervision (DSL) and with DHM, at one learning
rate for all, as in supplement E of the paper in miniature. Data come with scikit-learn, nothing is downloaded. Prints a
table of test errors, draws `curves.png`, exports the best main head for TensorFlow Serving and has fresh processes say
whether it is the same model, in plain TensorFlow and in the other runtimes that are installed. A second start with the
same settings keeps the runs that are finished, and goes on with those that were stopped, killed or not, to the same
results.

Runs with KERAS_BACKEND=jax too, also where TensorFlow is not installed: same batches, no TensorBoard, no export.
"""

import concurrent.futures
import importlib.util
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
from absl import app, flags, logging
from keras import layers

import dhm_keras as dhm
from dhm_keras.models import Branch, cifar_resnet
from dhm_keras.run import Run, best_and_last, left_out
from run_folders import card_of

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", None, "Folder of the runs. Default: runs/digits, with -BACKBONE and -smoke if given.")
flags.DEFINE_enum(
    "backbone", "resnet14", ["resnet14", "convnet"], "convnet: a plain Keras model, given its branches by dhm.fork."
)
flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
flags.DEFINE_integer("epochs", 20, "Number of epochs.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.05, "First learning rate, of all methods; a cosine takes it to 0.", 1e-6)
flags.DEFINE_float("warmup_epochs", 0.0, "Epochs over which the learning rate rises from 0.", lower_bound=0.0)
flags.DEFINE_float("corrupt", 0.4, "Share of the training labels that is redrawn.", 0.0, 1.0)
flags.DEFINE_boolean(
    "agreement", False, "Measure how far the heads agree, after each epoch of DSL and DHM; draws agreement.png."
)
flags.DEFINE_integer(
    "jobs", None, "Runs at a time, each on its share of the cores. Default: one a core; 1 with a GPU.", lower_bound=1
)
flags.DEFINE_boolean("smoke", False, "One seed, two epochs, whatever --seeds and --epochs say: half a minute.")

METHODS = ("baseline", "dsl", "dhm")
BRANCHES = {"aux1": Branch(2, (2,), (128,)), "aux2": Branch(1, (2, 1), (32, 64))}
BATCH_SIZE = 64
MEASURED = 256  # training images that --agreement measures on, with the labels that are trained on
CHECKPOINT_EVERY = 6  # steps: half an epoch
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def main(arguments):
    if len(arguments) > 1:
        raise app.UsageError(f"Too many arguments: {arguments[1:]}. Every option begins with --.")
    logging.set_verbosity(logging.WARNING)
    seeds, epochs = (1, 2) if FLAGS.smoke else (FLAGS.seeds, FLAGS.epochs)
    of_backbone = "" if FLAGS.backbone == "resnet14" else f"-{FLAGS.backbone}"
    folder = pathlib.Path(FLAGS.run_dir or f"runs/digits{of_backbone}{'-smoke' if FLAGS.smoke else ''}")
    settings = {
        "recipe": "digits",
        "backbone": FLAGS.backbone,
        "epochs": epochs,
        "learning_rate": FLAGS.learning_rate,
        "warmup_epochs": FLAGS.warmup_epochs,
        "corrupt": FLAGS.corrupt,
        "backend": keras.backend.backend(),
    }
    of_seeds = f"{seeds} seed{'s' * (seeds > 1)}"
    print(f"{len(METHODS)} methods x {of_seeds}, batch {BATCH_SIZE}, momentum 0.9, weight decay 1e-4, {settings}")
    print(f"Runs go to {folder}/METHOD-SEED")
    for sentence in left_out():
        print(sentence)

    try:
        runs = {
            method: [
                Run(folder / f"{method}-{seed}", {"method": method, "seed": seed, **settings, **measured(method)})
                for seed in range(seeds)
            ]
            for method in METHODS
        }
        unfinished = [run for method in METHODS for run in runs[method] if run.result is None]
    except (ValueError, OSError) as error:
        raise SystemExit(f"digits.py: {error}") from None
    try:
        train_all(unfinished, epochs)
        print_table(runs)
        draw_figures(runs, folder)
    except KeyboardInterrupt:
        raise SystemExit("digits.py: stopped. The same command goes on from there.") from None
    except (ValueError, OSError, FloatingPointError) as error:  # of a run's folder, or its loss
        raise SystemExit(f"digits.py: {error}") from None
    if ON_TENSORFLOW:
        every = [run for method in METHODS for run in runs[method]]
        export(min(every, key=lambda run: run.result["best"]["main_top1_error"]), folder / "serving")


def measured(method):
    """The setting that --agreement adds to a run of a network with several heads: its folder has a table more."""
    return {"agreement": True} if FLAGS.agreement and method != "baseline" else {}


def train_all(runs, epochs):
    """Trains the runs, several at a time, each process on its own cores: small kernels gain little from threads."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    jobs = FLAGS.jobs or (1 if shutil.which("nvidia-smi") else min(len(cores), max(len(runs), 1)))
    spawn = multiprocessing.get_context("spawn")
    workers, epochs_done, stopping = spawn.Value("i", 0), spawn.Value("i", 0), spawn.Value("b", 0)
    print(f"Training {len(runs)} runs, {jobs} at a time", flush=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # through the exit below
    bar = keras.utils.Progbar(len(runs) * epochs, unit_name="epoch") if sys.stdout.isatty() else None
    with concurrent.futures.ProcessPoolExecutor(
        jobs, spawn, initializer=start_worker, initargs=(workers, epochs_done, stopping, cores, jobs)
    ) as pool:
        pending = {pool.submit(train, run): run for run in runs}
        try:
            while pending:
                finished, _ = concurrent.futures.wait(pending, timeout=1)
                if bar:
                    bar.update(epochs_done.value)
                for future in finished:
                    future.result()
                    run = pending.pop(future)
                    error, seconds = run.result["last"]["main_top1_error"], run.seconds
                    print(f" {run.folder.name}: test error {error:.2f} %, {seconds:.0f} s", flush=True)
        except BaseException:  # Ctrl-C, SIGTERM, or a run that failed: the others save where they are
            stopping.value = 1
            for worker in multiprocessing.active_children():
                worker.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def start_worker(workers, epochs_done, stopping, cores, jobs):
    """Runs once in each process, before TensorFlow or JAX look how many cores there are."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    Progress.epochs_done, Progress.stopping = epochs_done, stopping
    with workers:
        number, workers.value = workers.value, workers.value + 1
    if hasattr(os, "sched_setaffinity") and len(cores) >= jobs:
        os.sched_setaffinity(0, cores[number % jobs :: jobs])


def end_with_parent():
    """A worker whose parent was killed must not write into folders that a new start writes into."""
    multiprocessing.parent_process().join()
    os._exit(1)


class Progress(keras.callbacks.Callback):
    """Counts the epochs of all processes; `stopping` says that no run is to begin any more."""

    epochs_done = stopping = None

    def on_epoch_end(self, epoch, logs=None):
        with self.epochs_done:
            self.epochs_done.value += 1


def resnet14(with_branches):
    """A network of the library, with its branches as a table."""
    return cifar_resnet(
        blocks=2,
        num_classes=10,
        branches=BRANCHES if with_branches else {},
        input_shape=(16, 16, 3),
        normalization=dhm.data.DIGITS_MEAN_STD,
        name="digits_resnet14",
    )


def convnet(with_branches):
    """A CNN as anyone writes one in Keras, forked: nine convolutions, two poolings, a softmax."""
    image = x = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255)(x)
    for width in (16, 32, 64):
        if width > 16:
            x = layers.MaxPooling2D()(x)
        for _ in range(3):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return dhm.fork(keras.Model(image, x, name="digits_convnet"), branches=2 if with_branches else 0)


BACKBONES = {"resnet14": resnet14, "convnet": convnet}


def train(run):
    """Trains one network and leaves history, logs, checkpoints and result in the run's folder."""
    if Progress.stopping.value:  # the pool had handed it out before
        return
    dhm.distribute.deterministic()
    method, seed, epochs = run.config["method"], run.config["seed"], run.config["epochs"]
    (images, labels), test = dhm.data.digits()
    labels = dhm.data.corrupt_labels(labels, run.config["corrupt"], num_classes=10, seed=0)  # the same for every run
    batches = dhm.data.TrainBatches(images, labels, BATCH_SIZE, pad=2, crop="batch", seed=seed)
    keras.utils.clear_session()  # Keras counts layers without a name: from the first on again
    keras.utils.set_random_seed(seed)
    network = BACKBONES[run.config["backbone"]](with_branches=method != "baseline")
    model = dhm.DHM(network, method=method, class_names=list("0123456789"), name=run.folder.name)
    schedule = dhm.schedules.Cosine(
        run.config["learning_rate"], batches.steps_per_epoch, epochs, run.config["warmup_epochs"]
    )
    model.compile(optimizer=dhm.optimizers.SGD(schedule, momentum=0.9, weight_decay=1e-4))
    callbacks = [*run.start(CHECKPOINT_EVERY), dhm.callbacks.WarnOfCollapse(), Progress()]
    if run.config.get("agreement"):
        path = run.path("agreement.csv")
        callbacks.append(dhm.callbacks.MeasureAgreement(images[:MEASURED], labels[:MEASURED], path))
    history = model.fit(
        batches, epochs=epochs, validation_data=test, validation_batch_size=1000, callbacks=callbacks, verbose=0
    ).history
    run.finish(model, best_and_last(history, model.heads))


def print_table(runs):
    """Test error of main in per cent, mean and standard deviation over the seeds, of the last and the best epoch."""
    print("\nTop-1 test error of main, %: mean (standard deviation) over the seeds")
    print(f"{'method':<10}{'last epoch':>16}{'best epoch':>16}   last epoch of each seed")
    for method, of_method in runs.items():
        last, best = ([run.result[when]["main_top1_error"] for run in of_method] for when in ("last", "best"))
        each = ", ".join(f"{error:.2f}" for error in last)
        print(f"{method:<10}{dhm.analysis.mean_std(last):>16}{dhm.analysis.mean_std(best):>16}   {each}")
    print("The best epoch is chosen on the test set, as papers on CIFAR do; the last is not chosen at all.\n")


def draw_figures(runs, folder):
    seeds = len(runs["dhm"])
    title = f"Digits, {FLAGS.corrupt:.0%} of the training labels redrawn, {seeds} seed{'s' if seeds > 1 else ''}"
    curves = {method: {run.folder.name: run.history for run in runs[method]} for method in METHODS}
    dhm.analysis.plot_curves({title: curves}, folder / "curves.png")
    print(f"Curves: {folder}/curves.png")
    if FLAGS.agreement:
        tables = {method: {run.folder.name: run.agreement for run in runs[method]} for method in METHODS[1:]}
        dhm.analysis.plot_agreement(tables, folder / "agreement.png", title)
        print(f"Agreement of the heads: {folder}/agreement.png")


def export(run, directory):
    """Exports the best main head of a run, and prints whether it is the same model, beside one without branches."""
    _, (images, labels) = dhm.data.digits()
    model = keras.models.load_model(run.checked("last.keras"))
    model.network.load_weights(run.checked("best.weights.h5"))
    card = {**card_of(run.config), "metrics": run.result["best"]}
    path = dhm.export.export_main(model, directory, card=card)
    for module, convert in (("tf2onnx", dhm.export.to_onnx), ("ai_edge_litert", dhm.export.to_litert)):
        if importlib.util.find_spec(module):
            convert(path)
    logits = dhm.export.float32_logits(model, images)
    error = 100 * (logits.argmax(-1) != labels).mean()
    print(
        f"Exported main of {run.folder.name}, best epoch, test error {error:.2f} %, to {path}: docker compose up in "
        f"{directory} serves it\n"
    )
    keras.utils.clear_session()
    with tempfile.TemporaryDirectory() as folder:
        plain = BACKBONES[run.config["backbone"]](with_branches=False)
        plain = dhm.export.export_main(plain, folder, class_names=model.class_names)
        report = dhm.export.check(path, images, logits, plain)
    print(report)
    if any(row.problem or row.margin > 1e-3 for row in report.rows):  # another class where two were as good as equal
        raise SystemExit("The exported model differs from the trained one.")


if __name__ == "__main__":
    app.run(main)
