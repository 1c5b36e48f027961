"""One of the processes of `test_hosts`: trains as TF_CONFIG says, with a `Resume`, and writes what it has to a file.

Run as `python resume_worker.py FOLDER FILE [STEP]`: with a step, the process kills itself after it.
"""

import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
from networks import Kill, sgd, tiny, values

import dhm_keras as dhm
from dhm_keras.run import Run


class KillProcess(Kill):
    def act(self):
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder, file, step=None):
    dhm.distribute.deterministic()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (29, 8, 8, 3)).astype("uint8"), rng.integers(0, 6, 29)
    train = dhm.data.TrainBatches(images, labels, batch_size=8, pad=1, flip=True)
    with dhm.distribute.data_parallel():
        keras.utils.set_random_seed(0)
        model = dhm.DHM(tiny(num_classes=6, synchronized=True))
        model.compile(optimizer=sgd(0.01))
        run = Run(folder, {"seed": 0})
        callbacks = [*run.start(every=2), dhm.callbacks.SampleBranches("bernoulli", scope="branch")]
        callbacks += [KillProcess(int(step))] if step else []
        if keras.backend.backend() == "tensorflow":
            callbacks.append(dhm.callbacks.ExportMain(run.path("serving")))
        history = model.fit(train, epochs=3, validation_data=(images[:9], labels[:9]), callbacks=callbacks, verbose=0)
        run.finish(model, {"epochs": 3})
    np.savez(file, **values([*model.variables, *model.optimizer.variables]))
    pathlib.Path(f"{file}.json").write_text(json.dumps(history.history))


if __name__ == "__main__":
    main(*sys.argv[1:])
