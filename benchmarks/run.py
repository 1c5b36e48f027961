"""What a training with branches costs, as ratios: steps against arithmetic, PyTorch and plain Keras; and the rest.

    python benchmarks/run.py                       # about an hour on two cores; nothing else should run
    python benchmarks/run.py --only steps,start
    python benchmarks/run.py --torch_python ~/torch/bin/python    # an environment with PyTorch, if not this one

Every side of a comparison is a process of its own; they take steps in turns, and a ratio is the median over the turns,
so that what else happens on the machine meets all sides alike. Parts: `steps`, `scope` (branches that are left out),
`start` (cold), `input`, `export`, `memory`. On a GPU see `device_speed.py`, too.
"""

import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from workers import HERE, Worker, torch_python

FLAGS = flags.FLAGS
PARTS = ("steps", "scope", "start", "input", "export", "memory")
flags.DEFINE_list("only", list(PARTS), f"Parts to run, of {', '.join(PARTS)}.")
flags.register_validator("only", lambda only: set(only) <= set(PARTS), f"Expected some of {', '.join(PARTS)}.")

NETWORKS = {  # batch size, turns
    "resnet32": (128, 12),
    "densenet40": (64, 8),
    "wrn16_8": (32, 6),
    "densenet100": (16, 5),
}
SCOPE = ("resnet32", 128, 16)
STARTS, START_BATCH, START_TURNS = ("resnet110", "densenet100"), 8, 3
INPUT, SOURCES = ("resnet32", 128, 12), ("input_speed", "jpeg_speed")
MEMORY = ("densenet100", 16, 1)
EXPORTED = ("resnet32", "densenet40")


def in_turns(workers, turns):
    """Has the workers of a dict take a step each, again and again."""
    for _ in range(turns):
        for worker in workers.values():
            worker.step()
            time.sleep(0.05)  # until its threads have gone to sleep
    for worker in workers.values():
        worker.stop()


def ratio(worker, other):
    """Median and range from quarter to quarter of the time of a step over that of another worker's in the same turn."""
    ratios = [a / b for a, b in zip(worker.seconds, other.seconds, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{median:.2f} ({low:.2f} - {high:.2f})"


def steps():
    print("A step of training, time of ours over the other's: median (quartiles) of the turns")
    print(f"{'network':<12}{'batch':>6}{'seconds':>9}   {'with branches / without':<26}{'multiply-adds':<15}", end="")
    print(f"{'/ plain Keras':<22}{'/ PyTorch':<22}")
    for arch, (batch, turns) in NETWORKS.items():
        ways = {way: Worker("training_worker", way, arch, batch) for way in ("dhm", "baseline", "keras")}
        if python := torch_python():
            ways["torch"] = Worker("torch_worker", "dhm", arch, batch, python=python)
        in_turns(ways, turns)
        against = {way: ratio(ways["dhm"], worker) for way, worker in ways.items()}
        median = statistics.median(ways["dhm"].seconds)
        print(f"{arch:<12}{batch:>6}{median:>9.2f}   {against['baseline']:<26}{arithmetic(arch):<15.2f}", end="")
        print(f"{against['keras']:<22}{against.get('torch', 'not installed'):<22}", flush=True)


def arithmetic(arch):
    """Multiply-adds of a network with branches over those of it without."""
    import dhm_keras as dhm

    counts = (dhm.analysis.multiply_adds(dhm.models.get(arch, **kwargs)) for kwargs in ({}, {"branches": ()}))
    return next(counts) / next(counts)


def scope():
    arch, batch, turns = SCOPE
    sets = ("main", "main,aux1", "main,aux2", "main,aux1,aux2")
    ways = {heads: Worker("training_worker", "dhm", arch, batch, heads) for heads in sets}
    ways["baseline"] = Worker("training_worker", "baseline", arch, batch)
    in_turns(ways, turns)
    both_off = ratio(ways["main"], ways["baseline"])
    none, one, two, both = (ways[heads].seconds for heads in sets)
    sums = [d / (b + c - a) for a, b, c, d in zip(none, one, two, both, strict=True)]
    print(f"Scope `branch`, {arch}: both branches left out, over the network without: {both_off}")
    print(f"both taken, over main and what each adds to it alone: {statistics.median(sums):.2f}", flush=True)


def start():
    print(f"Cold start in seconds, medians of {START_TURNS}: imports, building, to the end of the first step")
    for arch in STARTS:
        turns = []
        for _ in range(START_TURNS):
            worker = Worker("training_worker", "dhm", arch, START_BATCH)
            turns.append(worker.started)
            worker.stop()
        medians = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        print(f"{arch:<12}" + "  ".join(f"{name} {value:.1f}" for name, value in medians.items()), flush=True)


def input_pipeline():
    arch, batch, turns = INPUT
    ways = {way: Worker("training_worker", way, arch, batch) for way in ("input", "dhm")}
    in_turns(ways, turns)
    waits = ratio(ways["input"], ways["dhm"])
    print(
        f"A step of {arch} with batches cut and flipped beside it, over one on the same batch again and again: {waits}"
    )
    for script in SOURCES:
        subprocess.run([sys.executable, HERE / f"{script}.py"], check=True)


def export():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np

    import dhm_keras as dhm

    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype("uint8")
    for arch in EXPORTED:
        mean_std = dhm.data.CIFAR100_MEAN_STD
        network = dhm.models.get(arch, num_classes=100, normalization=mean_std)
        plain = dhm.models.get(arch, num_classes=100, normalization=mean_std, branches=())
        model = dhm.DHM(network)
        with tempfile.TemporaryDirectory() as folder:
            version = dhm.export.export_main(model, f"{folder}/branched")
            never = dhm.export.export_main(dhm.DHM(plain, method="baseline"), f"{folder}/plain")
            logits = model.main.predict(images, verbose=0)
            print(f"Exported main of {arch}, beside the network that never had branches")
            print(dhm.export.check(version, images, logits, never))
            kept = {name: serving_memory(path) for name, path in (("branched", version), ("plain", never))}
            print(f"Memory that serving takes: {kept['branched'] / kept['plain']:.3f} of the latter's", flush=True)


def serving_memory(version):
    """Peak memory, in kB, of a process that loads an export and answers 20 requests of 32 images; median of three."""
    code = (
        "import resource, sys, tensorflow as tf; "
        "model = tf.saved_model.load(sys.argv[1]).signatures['serving_default']; "
        "name, spec = next(iter(model.structured_input_signature[1].items())); "
        "[model(**{name: tf.zeros((32, *spec.shape[1:]), spec.dtype)}) for _ in range(20)]; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(version)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)]
    return statistics.median(map(int, runs))


def memory():
    arch, batch, turns = MEMORY
    print(f"Peak memory of a process that trains {arch} with branches, batch {batch}; a step over one as it is")
    medians = {}
    for way in ("dhm", "baseline", "remat", "accumulation", "torch"):
        if way != "torch":
            worker = Worker("training_worker", way, arch, batch)
        elif torch_python():
            worker = Worker("torch_worker", "dhm", arch, batch, python=torch_python())
        else:
            continue
        in_turns({way: worker}, turns)
        medians[way] = statistics.median(worker.seconds)
        print(f"{way:<14}{worker.memory:>6.1f} GiB   x {medians[way] / medians['dhm']:.2f}", flush=True)


def main(_):
    print(f"{time.strftime('%B %Y')}, {os.cpu_count()} cores, {processor()}, {backend()}", flush=True)
    functions = dict(zip(PARTS, (steps, scope, start, input_pipeline, export, memory), strict=True))
    for part in FLAGS.only:
        functions[part]()


def backend():
    """What trains, with versions."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    name = keras.backend.backend()
    return f"Keras {keras.__version__}, {name} {importlib.metadata.version(name)}"


def processor():
    """The processor's name as Linux has it."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    app.run(main)
