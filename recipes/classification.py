"""Recipes of data sets to classify: how a run is trained, the table of its errors, its figures."""

import dataclasses
from collections.abc import Callable

import keras
from absl import flags

import dhm_keras as dhm
from dhm_keras.run import best_and_last
from experiment import ALONE, Recipe, build, callbacks_of, draw_agreement, objective_of, schedule_of, skipped
from run_folders import card_of, find

MOST_STEPS = 25  # of a call: a signal, and the time left, are seen to between calls
FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Recipe):
    """The recipe of a data set to classify, whose results are the errors of all heads on the data held out.

    Attributes:
        batches: Function of a run's config and the data to the training batches and a dict of the arguments of `fit`
            that make the validation.
        images: Function of the data to the numbers of training images and of those held out.
        measured: Function of a run's config and the data to the training images and labels of `--agreement`.
        class_names: Function of the data to the names of the classes.
        crop: Float, as `export_main` takes it: how evaluation cuts images to the network's size.
        held_out: String. What the errors are measured on. Defaults to `"test"`.
        of_network: Function of a run's config to more arguments of the network's builder. Defaults to none.
    """

    batches: Callable
    images: Callable
    measured: Callable
    class_names: Callable
    crop: float = 1.0
    held_out: str = "test"
    of_network: Callable = lambda config: {}

    def train(self, run, data, epochs_after):
        config, seed = run.config, run.config["seed"]
        keras.config.set_dtype_policy(config["precision"])
        keras.utils.set_random_seed(seed)
        batches, validation = self.batches(config, data)
        size = config.get("image_size")
        network = build(
            config,
            num_classes=config.get("num_classes", 100),
            normalization=self.normalization,
            **({"input_shape": (size, size, 3)} if size else {}),
            **self.of_network(config),
        )
        model = dhm.DHM(network, **objective_of(config), class_names=self.class_names(data), name=run.folder.name)
        schedule = schedule_of(config, batches.steps_per_epoch)
        optimizer = dhm.optimizers.SGD(schedule, config["momentum"], weight_decay=config["weight_decay"])
        model.compile(optimizer=optimizer, steps_per_execution=steps_of_a_call(batches))
        images = self.images(data)
        callbacks = callbacks_of(run, epochs_after, lambda: self.measured(config, data))
        if config["backend"] == "tensorflow":
            card = card_of(config, images)
            callbacks.append(dhm.callbacks.ExportMain(run.path("serving"), crop=self.crop, card=card))
        history = model.fit(batches, epochs=config["epochs"], callbacks=callbacks, verbose=0, **validation).history
        told = {"images": images, **skipped(batches, validation["validation_data"])}
        run.finish(model, {**best_and_last(history, model.heads), **told})

    def print_table(self, runs):
        """Errors of every head on the data held out, after the best and the last epoch."""
        print(f"\n{self.held_out.capitalize()} error, %: mean (standard deviation over the seeds)")
        print(f"{'':<15}{'last epoch':>14}{'':>14}  {'best epoch':>14}")
        print(f"{'method':<9}{'head':<6}{'top-1':>14}{'top-5':>14}  {'top-1':>14}{'top-5':>14}")
        for method, of_method in runs.items():
            results = [run.result for run in of_method]
            heads = [key.removesuffix("_top1_error") for key in results[0]["last"] if key.endswith("_top1_error")]
            for head in heads:
                last_1, last_5, best_1, best_5 = (
                    dhm.analysis.mean_std(errors) if None not in errors else "-"  # of five classes there is no top-5
                    for when in ("last", "best")
                    for top in ("top1", "top5")
                    for errors in [[result[when].get(f"{head}_{top}_error") for result in results]]
                )
                name = "alone" if method in ALONE else head
                print(f"{method:<9}{name:<6}{last_1:>14}{last_5:>14}  {best_1:>14}{best_5:>14}")
        print(f"The best epoch is main's, chosen on the {self.held_out} set; the last is not chosen at all.\n")

    def draw_figures(self, folder):
        """Draws `curves.png`, and with `--agreement` `agreement.png`, of all the finished runs in the folder."""
        title = f"{self.title}, {FLAGS.arch}"
        try:
            runs = find(folder)
            curves = {method: {run.folder.name: run.history for run in of_method} for method, of_method in runs.items()}
            dhm.analysis.plot_curves({title: curves}, folder / "curves.png")
            print(f"Curves: {folder}/curves.png")
            draw_agreement(runs, folder, title)
        except (ImportError, ValueError) as error:  # runs of other settings in the same folder, among others
            print(f"No figures: {error}")


def steps_of_a_call(batches):
    """Steps that one call of the training takes: of images on the device many, as they fit into an epoch."""
    if not getattr(batches, "on_device", False):
        return 1
    steps = max(steps for steps in range(1, MOST_STEPS + 1) if batches.steps_per_epoch % steps == 0)
    print(f"{steps} of the {batches.steps_per_epoch} steps of an epoch are one call", flush=True)
    return steps
