"""The report: the paper's numbers as printed, ours by hand, in the paper's rows nothing but its experiments."""

import base64
import csv
import html.parser
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from absl import flags
from fake_runs import config_of, put
from programs import ROOT, recipe_module
from published_numbers import LABELS, PAPER, numbers_of

from dhm_keras.run import _write

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def report():
    """`recipes/report.py` and what it imports, as Python imports them for a script."""
    with recipe_module("report") as module:
        yield module


def written(report, *folders, out):
    """The report on some folders: the rows of its CSV file, and the texts of the two others."""
    paths = report.write(report.report_runs.read([str(folder) for folder in folders]), pathlib.Path(out))
    markdown, table, page = (path.read_text() for path in paths)
    return list(csv.DictReader(io.StringIO(table))), markdown, page


def of_paper(rows, table=None):
    return [row for row in rows if row["published_mean"] and table in (None, row["table"])]


class Page(html.parser.HTMLParser):
    """What is in an HTML page; checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.anchors = [], [], [], set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.anchors.add(attributes.get("id"))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_every_published_number_is_the_papers_and_in_all_three_files(tmp_path, report):
    put(tmp_path / "runs" / "dhm-0", {"recipe": "digits", "method": "dhm", "seed": 0, "backend": "jax"}, main=4.0)
    rows, markdown, page = written(report, tmp_path / "runs", out=tmp_path / "report")
    page = Page(page)
    for table, text in PAPER.items():
        of_table = [row for row in of_paper(rows, table) if row["epoch"] == "best"]
        expected = numbers_of(text)
        assert [(row["published_mean"], row["published_std"]) for row in of_table] == expected, table
        assert all(row["ours_mean"] == row["folders"] == "" and row["seeds"] == "0" for row in of_table)
        section = markdown[markdown.index(f"### {table}: ") :].split("\n### ")[0]
        metrics = len({row["metric"] for row in of_table})
        for start in range(0, len(expected), metrics):
            cell = " / ".join(f"{mean} ({std})" if std else mean for mean, std in expected[start : start + metrics])
            assert f"| {cell} | not run | not run |" in section
            assert cell in page.texts
        if table in LABELS:
            assert list(dict.fromkeys(row["row"] for row in of_table)) == LABELS[table]
    assert {row["table"] for row in of_paper(rows)} == set(PAPER)
    assert markdown.count("28.714 in Table 2, and 28.814 in Tables 4 and 5") == 4  # where the paper disagrees
    assert "reid.py --arch resnet50 --method baseline,dsl,dhm --dataset duke --data_dir DIR --weights FILE" in markdown


def test_networks_have_their_rows_in_the_papers_order(report):
    archs = lambda table: list(dict.fromkeys(row.condition["arch"] for row in table.rows))
    table_1, table_2 = report.report_tables.TABLES[:2]
    assert archs(table_1) == ["resnet32", "resnet110", "resnet1202", "densenet40", "densenet100", "wrn16_8", "wrn28_10"]
    assert archs(table_2) == ["resnet18", "resnet50", "resnet101", "resnet152"]
    for table in (table_1, table_2):
        assert [row.condition["method"] for row in table.rows] == ["baseline", "dsl", "dhm"] * (len(table.rows) // 3)
    import protocols
    import published

    assert set(published.ARCHITECTURES) == {arch for archs in protocols.ARCHS.values() for arch in archs}


def test_each_row_takes_the_runs_of_its_experiment_alone(tmp_path, report):
    """One run for every experiment of the paper, each with an error of its own."""
    experiments, tables = [], report.report_tables.TABLES
    for row in [row for table in tables for row in table.rows]:
        if row.condition not in experiments:
            put(
                tmp_path / f"runs/{len(experiments)}/x-0",
                config_of(**row.condition),
                **{head: 20.0 + len(experiments) + more for head, more in (("main", 0), ("aux1", 0.25), ("aux2", 0.5))},
            )
            experiments.append(row.condition)
    assert len(experiments) == 21 + 12 + 12 + 2 + 3 + 2 + 1 + 4 + 2 + 8 + 15  # one is in both of the last
    rows, markdown, _ = written(report, tmp_path / "runs", out=tmp_path / "report")
    for table in tables:
        ours = [row for row in of_paper(rows, table.name) if row["epoch"] == "best"]
        expected = []
        for row in table.rows:
            error = 20 + experiments.index(row.condition) + {"main": 0, "aux1": 0.25, "aux2": 0.5}[row.head]
            values = {"top1_error": error, "top5_error": error / 4, "top1_accuracy": 100 - error}
            values |= {"map": error, "rank1": error / 4}
            expected += [values[metric] for metric in table.metrics]
        assert [float(row["ours_mean"]) for row in ours] == expected, table.name
        assert {row["ours_std"] for row in ours} == {""} and {row["seeds"] for row in ours} == {"1"}
    # ImageNet is complete with one seed, as in the paper; on CIFAR-100 the paper has five.
    assert "imagenet.py" not in markdown and "--corrupt 0.2 --seeds 5" in markdown


def test_ours_are_mean_and_deviation_by_hand(tmp_path, report):
    for seed, error in enumerate((27.0, 28.0, 30.0)):
        put(tmp_path / f"runs/a/dhm-{seed}", config_of("cifar100", "resnet32", "dhm", seed), main=error, aux1=error + 2)
    for seed, error in enumerate((20.0, 22.0)):
        config = config_of("cifar100", "wrn28_10", "baseline", seed, corrupt=0.5)
        put(tmp_path / f"runs/b/baseline-{seed}", config, main=error)
    rows, markdown, page = written(report, tmp_path / "runs", out=tmp_path / "report")
    # (27 + 28 + 30) / 3, and the root of ((4/3)^2 + (1/3)^2 + (5/3)^2) / 2; the last epoch has one more
    assert "| DHM | 27.404 (0.255) | 28.333 (1.528) | 29.333 (1.528) | 3 of 5 | TensorFlow |" in markdown
    assert "| 50 % | baseline | 61.268 (0.311) | 79.000 (1.414) | 78.000 (1.414) | 2 of 5 | TensorFlow |" in markdown
    assert "| DHM | main | 28.333 (1.528) / 7.083 (0.382) | 29.333 (1.528) / 7.333 (0.382) | 3 | Table 1 |" in markdown
    assert "|  | aux1 | 30.333 (1.528) / 7.583 (0.382) | 31.333 (1.528) / 7.833 (0.382) | 3 |  |" in markdown
    assert "28.333 (1.528)" in Page(page).texts
    counted = [row for row in rows if row["seeds"] != "0"]
    assert [float(row["ours_mean"]) for row in counted[:4]] == pytest.approx([85 / 3, 88 / 3, 79, 78], abs=1e-8)
    assert float(counted[0]["ours_std"]) == pytest.approx((7 / 3) ** 0.5, abs=1e-8)
    for row in counted:  # the CSV file's numbers, rounded, are those of the others
        for text in (markdown, page):
            assert f"{float(row['ours_mean']):.3f} ({float(row['ours_std']):.3f})" in text
    assert counted[0]["folders"] == ";".join(str(tmp_path / f"runs/a/dhm-{seed}") for seed in range(3))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"epochs": 10}, "10 epochs (164)"),
        ({"epochs": 1}, "1 epoch (164)"),
        ({"train_examples": 10_000}, "10,000 training images (all)"),
        ({"test_examples": 256}, "tested on 256 images (all)"),
        ({"batch_size": 64}, "batches of 64 (128)"),
        ({"learning_rate": 0.05}, "learning rate 0.05 (0.1)"),
        ({"weight_decay": 5e-4}, "weight decay 0.0005 (0.0001)"),
        ({"warmup_epochs": 2.0}, "2 epochs of warm-up (none)"),
        ({"corrupt": 0.2}, "20 % of the training labels redrawn (none)"),
        ({"temperature": 3.0}, "temperature 3 (1)"),
        ({"ce_weight": 0.5}, "ce weight 0.5 (1)"),
        ({"mimic_weight": 2.0}, "mimic weight 2 (1)"),
        ({"sampling": "uniform"}, "sampling uniform (fixed)"),
        ({"sampling": "bernoulli", "p": 0.3}, "sampling bernoulli (fixed), p 0.3 (0.5)"),
        ({"sampling": "bernoulli", "scope": "branch"}, "sampling bernoulli (fixed), scope branch (mimic)"),
        ({"branches": ["aux2"]}, "branches aux2 (aux1, aux2)"),
        ({"direction": "top_down"}, "direction top_down (both)"),
        ({"stem_filters": 16}, "stem filters 16"),  # whatever the recipe comes to have
        ({"epochs": 10, "batch_size": 64}, "batches of 64 (128), 10 epochs (164)"),
    ],
)
def test_other_settings_are_in_no_table_of_the_paper_and_named(tmp_path, report, settings, words):
    put(tmp_path / "runs/dhm-0", config_of("cifar100", "resnet32", "dhm", **settings), main=30.0)
    rows, markdown, page = written(report, tmp_path / "runs", out=tmp_path / "report")
    assert {row["seeds"] for row in of_paper(rows)} == {"0"}
    ours = [row for row in rows if row["seeds"] != "0"]
    assert {row["table"] for row in ours} == {"Comparison 1: CIFAR-100, ResNet-32"}
    assert {row["deviations"] for row in ours} == {words}
    assert words in markdown and words in page


def test_what_the_paper_has_not(tmp_path, report):
    digits = {"recipe": "digits", "backbone": "resnet14", "method": "dhm", "epochs": 20, "learning_rate": 0.05}
    digits |= {"warmup_epochs": 0.0, "corrupt": 0.4, "backend": "tensorflow"}
    for seed in range(2):
        put(tmp_path / f"runs/digits/dhm-{seed}", digits | {"seed": seed}, main=4.0 + seed, aux1=5.0)
    put(tmp_path / "runs/resnet20/dsl-0", config_of("cifar100", "resnet20", "dsl"), main=33.0, aux1=32.0)
    put(tmp_path / "runs/resnet20/aux1-0", config_of("cifar100", "resnet20", "aux1"), main=31.0)
    _, markdown, _ = written(report, tmp_path / "runs", out=tmp_path / "report")
    first, second = markdown.split("### Comparison ")[1:]
    assert "This network is not in the paper" in first and "The paper's settings." in first
    assert "| DSL | main | 33.000 / 8.250 | 34.000 / 8.500 | 1 |  |\n|  | aux1 | 32.000" in first
    assert "| aux1 alone | main | 31.000" in first
    assert second.startswith("2: digits, ResNet-14\n")
    assert "20 epochs, learning rate 0.05, no warm-up, 40 % of the training labels redrawn." in second
    assert "| DHM | main | 4.500 (0.707)" in second


def test_backends_devices_and_precisions_are_not_mixed(tmp_path, report):
    environments = (
        ({}, "TensorFlow"),
        ({"backend": "jax"}, "JAX"),
        ({"precision": "mixed_bfloat16", "devices": 4, "synchronized": True}, "TensorFlow, mixed_bfloat16, 4 devices"),
    )
    for index, (settings, _) in enumerate(environments):
        for seed in range(2):
            config = config_of("cifar100", "resnet32", "dhm", seed, **settings)
            put(tmp_path / f"runs/{index}/dhm-{seed}", config, main=25.0 + 2 * seed + index)
    rows, markdown, _ = written(report, tmp_path / "runs", out=tmp_path / "report")
    for index, (_, words) in enumerate(environments):
        assert f"| {26 + index}.000 (1.414) | {27 + index}.000 (1.414) | 2 of 5 | {words} |" in markdown
        assert f"Computed with {words}." in markdown
    ours = [row for row in of_paper(rows) if row["seeds"] != "0" and row["epoch"] == "best"]
    assert [(row["seeds"], row["computed_with"]) for row in ours] == [("2", words) for _, words in environments]


def test_a_copy_is_no_other_seed(tmp_path, report):
    for seed in range(2):
        put(tmp_path / f"runs/a/dhm-{seed}", config_of("cifar100", "resnet32", "dhm", seed), main=27.0 + 2 * seed)
    shutil.copytree(tmp_path / "runs/a/dhm-0", tmp_path / "runs/b/dhm-0")
    put(tmp_path / "runs/c/dhm-1", config_of("cifar100", "resnet32", "dhm", 1), main=10.0)
    _, markdown, _ = written(report, tmp_path / "runs", tmp_path / "runs/a", out=tmp_path / "report")
    assert "Runs: 2 finished, 2 there twice." in markdown
    assert "| 28.000 (1.414) | 29.000 (1.414) | 2 of 5 |" in markdown
    why = "It has the settings and the seed of {}, and {} result; only that one counts."
    assert f"`{tmp_path}/runs/b/dhm-0`: {why.format(tmp_path / 'runs/a/dhm-0', 'the same')}" in markdown
    assert f"`{tmp_path}/runs/c/dhm-1`: {why.format(tmp_path / 'runs/a/dhm-1', 'another')}" in markdown


def test_what_is_unfinished_damaged_or_foreign_is_named(tmp_path, report, capsys):
    config = config_of("cifar100", "resnet32", "dhm")
    put(tmp_path / "runs/good/dhm-0", config, main=27.0)
    put(tmp_path / "runs/new/dhm-1", config | {"seed": 1})
    put(tmp_path / "runs/going/dhm-2", config | {"seed": 2})
    (tmp_path / "runs/going/dhm-2/history.csv").write_text("epoch,loss\n0,3.5\n1,2.5\n")
    result = put(tmp_path / "runs/changed/dhm-3", config | {"seed": 3}, main=27.0) / "result.json"
    result.write_text(result.read_text().replace("27.0", "17.0"))
    (put(tmp_path / "runs/torn/dhm-4", config | {"seed": 4}, main=27.0) / "config.json").write_text('{"form')
    (put(tmp_path / "runs/one/dhm-5", config | {"seed": 5}) / "config.json").write_text('{"seed": 5}')
    put(tmp_path / "runs/older/dhm-6", {name: config[name] for name in config if name != "recipe"}, main=27.0)
    put(tmp_path / "runs/fish/dhm-7", {"recipe": "fish", "method": "dhm", "seed": 7}, main=27.0)
    put(tmp_path / "runs/short/dhm-8", {name: config[name] for name in config if name != "epochs"} | {"seed": 8})
    put(tmp_path / "runs/other/dhm-9", config | {"seed": 9, "arch": "vgg16"}, main=27.0)
    put(tmp_path / "runs/method/dhm-10", config | {"seed": 10, "method": "foo"}, main=27.0)
    _write(put(tmp_path / "runs/form/dhm-11", config | {"seed": 11}) / "result.json", {"best_error": 27.0}, {})
    put(tmp_path / "runs/good/dhm-0/serving/dhm-12", config | {"seed": 12}, main=1.0)  # part of a run is no run

    flags.FLAGS(["report.py", "--out", str(tmp_path / "out/report")])
    report.main(["report.py", str(tmp_path / "runs")])
    printed, markdown = capsys.readouterr().out, (tmp_path / "out/report.md").read_text()
    assert "Runs: 1 finished, 2 unfinished, 9 left out." in printed and "Runs: 1 finished, 2 unf" in markdown
    for folder, words in {
        "new/dhm-1": "Epoch 0 of 164.",
        "going/dhm-2": "Epoch 2 of 164.",
        "changed/dhm-3": "is not what the run wrote: it is damaged, or was changed since.",
        "torn/dhm-4": "is not a JSON file",
        "one/dhm-5": "holds a run in format 1, of another version of dhm_keras",
        "older/dhm-6": "Its config names no recipe",
        "fish/dhm-7": "It is of the recipe fish",
        "short/dhm-8": "Its config has no epochs",
        "other/dhm-9": "The report knows no network vgg16",
        "method/dhm-10": "The report knows no method foo.",
        "form/dhm-11": "Its result has another form",
    }.items():
        (line,) = [line for line in markdown.splitlines() if line.startswith(f"- `{tmp_path}/runs/{folder}`")]
        assert words in line and words in printed
    assert "27.404 (0.255) | 27.000 | 28.000 | 1 of 5 |" in markdown


def experiments_of(command, seeds):
    """The settings of the runs that a command makes, as text."""
    python, path, *words = shlex.split(command)
    values = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    recipe = pathlib.Path(path).stem
    assert python == "python" and path == f"recipes/{recipe}.py" and (recipe != "cifar100") == ("data_dir" in values)
    assert values.pop("seeds", None) == (str(seeds) if seeds else None)
    values.pop("data_dir", None)
    assert (values.pop("weights", None) == "FILE") == (
        values["arch"] == "resnet50" or values.get("start") == "imagenet"
    ) * (recipe == "reid")
    return [{"recipe": recipe, **values, "method": method} for method in values["method"].split(",")]


def test_commands_make_the_rows_that_are_missing(tmp_path, report):
    def commands_of(folder):
        sections = report.report_tables.build(report.report_runs.read([folder]))
        return {section.table.name: section.commands for section in sections if section.table}

    put(tmp_path / "none/dhm-0", config_of("cifar100", "resnet32", "dhm"))
    commands = commands_of(tmp_path / "none")
    for table in report.report_tables.TABLES:
        made = [row for command in commands[table.name] for row in experiments_of(command, table.seeds)]
        texts = lambda row: {k: ",".join(v) if isinstance(v, tuple) else str(v) for k, v in row.items()}
        rows = {str(sorted(texts(row.condition).items())) for row in table.rows}
        assert {str(sorted(row.items())) for row in made} == rows and len(made) == len(rows), table.name

    for method in ("baseline", "dsl"):
        put(tmp_path / f"some/{method}-0", config_of("imagenet", "resnet18", method), main=30.0)
    for seed in range(5):
        config = config_of("cifar100", "resnet32", "dhm", seed, sampling="bernoulli")
        put(tmp_path / f"some/dhm-{seed}", config, main=27.0)
    commands = commands_of(tmp_path / "some")
    assert commands["Supplement D"] == []
    assert commands["Table 5"] == ["python recipes/imagenet.py --arch resnet18 --method dhm,aux1,aux2 --data_dir DIR"]
    assert commands["Table 1"][0] == "python recipes/cifar100.py --arch resnet32 --method baseline,dsl,dhm --seeds 5"


def test_the_page_is_whole_and_holds_its_pictures(tmp_path, report):
    folder = tmp_path / "runs/a <b> & |c|"
    put(folder / "dhm-0", config_of("cifar100", "resnet32", "dhm"), main=27.0)
    (folder / "curves.png").write_bytes(PNG)
    (folder / "agreement.png").write_bytes(b"<html>")
    _, markdown, page = written(report, tmp_path / "runs", out=tmp_path / "out" / "report")
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert "http" not in page and "url(" not in page and "@import" not in page
    (image,) = [attributes for tag, attributes in parsed.tags if tag == "img"]
    kind, content = image["src"].split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(content) == PNG
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    assert len(links) > 10 and {link.removeprefix("#") for link in links} <= parsed.anchors
    assert str(folder / "curves.png") in parsed.texts and "b" not in {tag for tag, _ in parsed.tags}
    (link,) = re.findall(r"!\[.*\]\(<(.*)>\)", markdown)
    assert (tmp_path / "out" / link).read_bytes() == PNG
    assert "agreement.png`: This is no PNG file." in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):  # as many cells in every row
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_wrong_folders_are_told_in_one_sentence(tmp_path, report):
    (tmp_path / "empty").mkdir()
    for arguments, words in {
        ("nowhere",): "report.py: There is no folder nowhere.",
        (str(tmp_path / "empty"),): f"report.py: There is no run below {tmp_path / 'empty'}: no folder there has a",
    }.items():
        flags.FLAGS(["report.py", "--out", str(tmp_path / "report")])
        with pytest.raises(SystemExit) as stop:
            report.main(["report.py", *arguments])
        assert stop.value.code.startswith(words) and "\n" not in stop.value.code
    assert not list(tmp_path.glob("report*"))


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path, report, monkeypatch):
    put(tmp_path / "runs/dhm-0", config_of("cifar100", "resnet32", "dhm"), main=27.0)
    before = written(report, tmp_path / "runs", out=tmp_path / "report")
    put(tmp_path / "runs/dhm-1", config_of("cifar100", "resnet32", "dhm", 1), main=26.0)

    def fail(sections):
        raise OSError("a picture cannot be read")

    monkeypatch.setattr(report, "html_page", fail)
    with pytest.raises(OSError, match="picture"):
        written(report, tmp_path / "runs", out=tmp_path / "report")
    texts = [(tmp_path / f"report.{suffix}").read_text() for suffix in ("md", "csv", "html")]
    assert texts == [before[1], texts[1], before[2]] and "dhm-1" not in "".join(texts)
    assert not list(tmp_path.glob(".partial*"))


def test_the_command(tmp_path, report):
    put(tmp_path / "runs/dhm-0", config_of("cifar100", "resnet32", "dhm"), main=27.0)
    command = [sys.executable, str(ROOT / "recipes" / "report.py"), "runs", "--out", "new/report"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "Runs: 1 finished.\nWrote new/report.md, new/report.csv, new/report.html\n"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.csv", "report.html", "report.md"]


def test_another_number_of_images_is_told_and_stands_in_no_table_of_the_paper(tmp_path, report):
    runs = tmp_path / "runs"
    for seed, images in enumerate(([1_281_167, 50_000], [9_000, 500])):
        folder = put(runs / f"{seed}" / "dhm-0", config_of("imagenet", "resnet18", "dhm"), main=30.0 + seed)
        result = {when: {"epoch": 1, "main_top1_error": 30.0 + seed} for when in ("best", "last")}
        _write(folder / "result.json", {**result, "images": images, "skipped": seed}, {})
        rows, markdown, _ = written(report, runs / f"{seed}", out=tmp_path / f"report{seed}")
        counted = [row for row in of_paper(rows, "Table 2") if row["ours_mean"]]
        assert bool(counted) == (images[0] == 1_281_167)
        assert ("9,000, 500 images to train and test on (1,281,167, 50,000)" in markdown) == (not counted)
        assert ("1 corrupt image left out" in markdown) == bool(seed)
