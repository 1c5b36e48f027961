"""Run folders: one config a folder, nothing half written."""

import pytest

from dhm_keras.run import Run, write_json


def test_a_folder_belongs_to_one_config(tmp_path):
    run = Run(tmp_path / "run", {"seed": 0, "rate": 0.1, "sizes": (1, 2)})
    assert run.result is None
    run.finish({"error": 5.0})
    again = Run(tmp_path / "run", {"seed": 0, "rate": 0.1, "sizes": [1, 2]})
    assert again.result == {"error": 5.0}
    with pytest.raises(ValueError, match=r"rate: 0\.1 there, 0\.2 here") as error:
        Run(tmp_path / "run", {"seed": 0, "rate": 0.2, "sizes": [1, 2]})
    assert "seed" not in str(error.value) and "another folder" in str(error.value)
    assert Run(tmp_path / "run", {"seed": 0, "rate": 0.1, "sizes": [1, 2]}).result == {"error": 5.0}


def test_a_broken_file_is_named(tmp_path):
    Run(tmp_path, {"seed": 0})
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"config\.json is not a JSON file"):
        Run(tmp_path, {"seed": 0})


def test_json_is_there_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
