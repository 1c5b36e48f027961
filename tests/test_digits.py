"""`recipes/digits.py` as a user starts it, stops it and kills it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import kill_digits
import pytest
from programs import ROOT, run_main, start, without_tensorflow

from dhm_keras.run import Run


def assert_report_of_digits(printed):
    """The export is the trained model in every runtime, and the network that never had branches."""
    rows = [line for line in printed.splitlines() if " of 997 " in line]
    assert [row.split()[0] for row in rows] == ["TensorFlow", "OpenVINO", "ONNX", "LiteRT"]
    assert all("997 of 997" in row for row in rows) and "Equal to the never-branched network: " in printed


@pytest.mark.slow
@pytest.mark.tensorflow
def test_digits_trains_three_methods_draws_exports_and_keeps_what_is_done(tmp_path, capsys):
    runs = tmp_path / "runs"
    first = start("recipes/digits.py", "--smoke", f"--run_dir={runs}")
    assert first.returncode == 0, first.stderr[-3000:]
    assert_report_of_digits(first.stdout)
    for method in ("baseline", "dsl", "dhm"):
        assert f"{method}-0: test error" in first.stdout
        run = Run.open(runs / f"{method}-0")
        assert len(run.history) == 2 and run.config["method"] == method
        assert run.result["last"]["main_top1_error"] == pytest.approx(100 * (1 - run.history[-1]["val_main_accuracy"]))
        assert keras.models.load_model(run.path("last.keras")).objective.method == method
        assert list((runs / f"{method}-0" / "tensorboard").rglob("*tfevents*"))
        assert pathlib.Path(run.path("best.weights.h5")).exists()
    assert (runs / "curves.png").stat().st_size > 10_000
    assert [path.name for path in (runs / "serving").iterdir() if path.is_dir()] == ["1"]

    again = lambda *flags: run_main("digits", "--smoke", f"--run_dir={runs}", *flags, export=lambda run, folder: None)
    again()
    second, table = capsys.readouterr().out, lambda text: text[text.index("Top-1") : text.index("Curves")]
    assert "Training 0 runs" in second and table(first.stdout) == table(second)
    with pytest.raises(SystemExit, match=r"^digits\.py: .*corrupt: 0\.4 there, 0\.1 here"):
        again("--corrupt=0.1")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_digits_with_a_forked_network(tmp_path):
    flags = "--smoke", "--backbone=convnet", "--agreement", "--learning_rate=0.1", "--warmup_epochs=2"
    process = start("recipes/digits.py", *flags, f"--run_dir={tmp_path}")
    assert process.returncode == 0, process.stderr[-3000:]
    assert_report_of_digits(process.stdout)
    heads = [name for name in Run.open(tmp_path / "dhm-0").history[0] if name.endswith("_ce") and "val" not in name]
    assert sorted(heads) == ["aux1_ce", "aux2_ce", "main_ce"]
    tables = {method: Run.open(tmp_path / f"{method}-0").agreement for method in ("baseline", "dsl", "dhm")}
    assert tables["baseline"] is None and len(tables["dsl"]) == len(tables["dhm"]) == 2
    assert -1 < tables["dhm"][1]["cosine_main_aux2"] < 1 and (tmp_path / "agreement.png").exists()


@pytest.mark.slow
def test_digits_on_jax_without_tensorflow(tmp_path):
    process = start(
        "recipes/digits.py", "--smoke", "--jobs=1", f"--run_dir={tmp_path}/runs", **without_tensorflow(tmp_path)
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "no TensorBoard logs, no export" in process.stdout and "dhm-0: test error" in process.stdout
    assert (tmp_path / "runs" / "curves.png").exists() and not (tmp_path / "runs" / "serving").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill", "interrupt", "term"])
def test_a_digits_start_that_ends_early_leaves_no_worker(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "recipes/digits.py", "--jobs=2", f"--run_dir={tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.time() + 120
    while not list(tmp_path.glob("*/history.csv")) and time.time() < deadline:
        time.sleep(0.5)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 1 and "Traceback" not in printed
        assert printed.strip().splitlines()[-1].startswith("digits.py: stopped.")
    if number == signal.SIGTERM:  # the workers have saved where they were
        assert process.returncode == 143 and "Traceback" not in printed
        assert "SIGTERM: stopped. The same training goes on from" in printed
    for _ in range(60):  # its workers are of its process group
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker outlived the recipe")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_digits_killed_at_random_moments_end_the_same_to_the_bit(tmp_path):
    for moments, differ in kill_digits.kill_and_compare(tmp_path, times=2, seed=1, kills=(2, 3)):
        assert not differ, (moments, differ)
