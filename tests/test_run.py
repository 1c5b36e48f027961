"""Run folders: one config a folder, nothing half written."""

import pytest

from dhm_keras.analysis import mean_std
from dhm_keras.files import write_json
from dhm_keras.run import Run, best_and_last


def test_a_folder_belongs_to_one_config(tmp_path):
    run = Run(tmp_path / "run", {"seed": 0, "rate": 0.1, "sizes": (1, 2)})
    assert run.result is None and not (tmp_path / "run").exists()  # a start that fails at once claims no folder
    with pytest.raises(ValueError, match="Expected the folder of a run"):
        Run.open(tmp_path / "run")
    run.start()
    assert Run(tmp_path / "run", {"seed": 0, "rate": 0.1, "sizes": [1, 2]}).config == Run.open(tmp_path / "run").config
    with pytest.raises(ValueError, match=r"rate: 0\.1 there, 0\.2 here") as error:
        Run(tmp_path / "run", {"seed": 0, "rate": 0.2, "sizes": [1, 2]})
    assert "seed" not in str(error.value) and "another folder" in str(error.value)


def test_a_broken_file_is_named(tmp_path):
    Run(tmp_path, {"seed": 0}).start()
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"config\.json is not a JSON file"):
        Run(tmp_path, {"seed": 0})


def test_json_is_there_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'


def test_best_is_mains_first_lowest_error_and_last_the_last():
    history = {
        "val_main_accuracy": [0.5, 0.75, 0.75, 0.25],
        "val_main_top5": [0.5, 0.875, 1.0, 0.75],
        "val_aux1_accuracy": [1.0, 0.5, 0.0, 0.125],
        "val_aux1_top5": [1.0, 0.5, 0.5, 0.5],
    }
    best = {"main_top1_error": 25.0, "main_top5_error": 12.5, "aux1_top1_error": 50.0, "aux1_top5_error": 50.0}
    last = {"main_top1_error": 75.0, "main_top5_error": 25.0, "aux1_top1_error": 87.5, "aux1_top5_error": 50.0}
    assert best_and_last(history, ("main", "aux1")) == {"best": {"epoch": 2, **best}, "last": {"epoch": 4, **last}}


def test_mean_and_deviation_of_a_sample():
    assert mean_std([1.0, 2.0, 4.0]) == "2.33 (1.53)"  # the deviation divides by n - 1
    assert mean_std([27.404]) == "27.40"
