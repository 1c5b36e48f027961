"""The tables of a report: the paper's with ours beside them, and then all that was run."""

import dataclasses

import protocols
from published import EPOCH, METHODS, METRICS, RECIPES, TABLES, names_of
from report_runs import ENVIRONMENT, IDENTITY, deviations_in_words, in_words, metrics_of, title
from run_folders import OF_METHOD

NOT_RUN = "not run"
BEST_AND_LAST = (
    "Ours are means over the seeds, with several seeds followed by the standard deviation (n - 1) in parentheses. "
    "The best epoch is the one with main's lowest top-1 error on the test set, of person re-identification with the "
    "highest mAP: it is chosen on the test set. "
    "The last epoch is not chosen at all. " + EPOCH
)
OURS = (
    "Every head of every run, grouped by what the methods of a comparison share. What differs from the paper's "
    "settings is named, with the paper's value in parentheses. Such runs stand in none of the paper's tables, unless "
    "the difference is what the table is about. The last column says in which of them a row is counted."
)
IN_THE_PAPER = {row.condition["arch"] for table in TABLES for row in table.rows}


@dataclasses.dataclass
class Line:
    """A line of a table.

    Args:
        labels: Tuple of strings.
        method: String, for the CSV file.
        head: String.
        published: Tuple as in `published.Row`, or `None` where the paper has nothing.
        sample: `Sample`, or `None` where nothing was run.
        remark: String, the last cell.
    """

    labels: tuple
    method: str
    head: str
    published: tuple | None
    sample: object
    remark: str = ""


@dataclasses.dataclass
class Filled:
    """A table with its lines.

    Args:
        name: String; the table's in the CSV file.
        columns: Tuple of strings, the names of the labels.
        metrics: Tuple of keys of `METRICS`.
        lines: List of `Line`.
        remark: String, the name of the last column.
        digits: Integer, decimals. Defaults to 3.
        seeds: Integer, how many the paper has, or `None`.
    """

    name: str
    columns: tuple
    metrics: tuple
    lines: list
    remark: str
    digits: int = 3
    seeds: int | None = None


@dataclasses.dataclass
class Section:
    """A part of a report; all but its heading may be empty.

    Args:
        heading: String.
        level: Integer, 2 or 3.
        text: List of sentences or paragraphs.
        table: `Filled`.
        why_commands: String, what the commands are for.
        commands: List of strings.
        items: List of `(folder, sentence)`.
        pictures: List of paths.
    """

    heading: str
    level: int = 3
    text: list = dataclasses.field(default_factory=list)
    table: Filled | None = None
    why_commands: str = ""
    commands: list = dataclasses.field(default_factory=list)
    items: list = dataclasses.field(default_factory=list)
    pictures: list = dataclasses.field(default_factory=list)


def build(found):
    """The sections of a report.

    Args:
        found: `Found`, of `report_runs.read`.

    Returns:
        List of `Section`.
    """
    counted_in = {}  # (id of a sample, head) -> names of the paper's tables that it stands in
    of_paper = [_of_paper(table, found.samples, counted_in) for table in TABLES]
    ours = _ours(found.samples, counted_in)
    return [
        Section("The paper's tables", 2, [found.summary(), BEST_AND_LAST]),
        *of_paper,
        Section("All finished runs", 2, [OURS if ours else "There are none yet."]),
        *ours,
        *_asides(found),
    ]


def _of_paper(table, samples, counted_in):
    """The section of one of the paper's tables; notes in `counted_in` which samples it counts."""
    lines, missing = [], []
    for row in table.rows:
        of_row = [sample for sample in samples if _is_of(row, sample)]
        for sample in of_row:
            counted_in.setdefault((id(sample), row.head), []).append(table.name)
        lines += [
            Line(
                row.labels,
                row.condition["method"],
                row.head,
                row.published,
                sample,
                sample.environment if sample else "",
            )
            for sample in of_row or [None]
        ]
        if max((len(sample.runs) for sample in of_row), default=0) < (table.seeds or 1):
            missing.append(row)
    filled = Filled(table.name, table.columns, table.metrics, lines, "computed with", table.digits, table.seeds)
    names = names_of(table.metrics)
    better = METRICS[table.metrics[0]][1]
    text = [f"{names[0].upper() + names[1:] if names.islower() else names}, %; {better} is better.", *table.notes]
    section = Section(f"{table.name}: {table.title}", 3, text, filled)
    if missing:
        fewer = f", or have fewer seeds than the paper's {table.seeds}" if table.seeds else ""
        section.why_commands = f"The rows that are not run{fewer}:"
        section.commands = _commands([row.condition for row in missing], table.seeds)
    return section


def _is_of(row, sample):
    """Whether a sample repeats a row: as in the paper, but for what the row names."""
    what = {name: sample.config.get(name) for name in ("recipe", "arch", "method")}
    differ = {name: values[0] for name, values in sample.deviations.items()}
    return {**what, **differ} == row.condition


def _commands(conditions, seeds):
    """The commands that make the runs of some rows: the methods of one experiment together."""
    methods = {}
    for condition in conditions:
        experiment = tuple((name, value) for name, value in condition.items() if name != "method")
        of_experiment = methods.setdefault(experiment, [])
        if condition["method"] not in of_experiment:
            of_experiment.append(condition["method"])
    return [_command(dict(experiment), of_experiment, seeds) for experiment, of_experiment in methods.items()]


def _command(experiment, methods, seeds):
    recipe, arch, *others = experiment
    words = [f"python recipes/{experiment[recipe]}.py --arch {experiment[arch]} --method {','.join(methods)}"]
    for name in others:
        value = experiment[name]
        words.append(f"--{name} {','.join(value) if isinstance(value, tuple) else value}")
    if seeds:
        words.append(f"--seeds {seeds}")
    if experiment[recipe] in ("imagenet", "reid"):
        words.append("--data_dir DIR")
    if experiment[recipe] == "reid" and (experiment[arch] == "resnet50" or experiment.get("start") == "imagenet"):
        words.append("--weights FILE")
    return " ".join(words)


def _ours(samples, counted_in):
    """A section for each comparison: the samples that differ in their method, and what goes with it, alone."""
    comparisons = {}
    for sample in samples:
        shared = {name: value for name, value in sample.config.items() if name not in ("method", *OF_METHOD)}
        comparisons.setdefault(repr(sorted(shared.items())), []).append(sample)
    sections = [
        _comparison(number, of_one, counted_in)
        for number, of_one in enumerate(sorted(comparisons.values(), key=_place), start=1)
    ]
    shown = set()
    for section in sections:  # a folder may hold several comparisons
        section.pictures = [path for path in section.pictures if path not in shown]
        shown |= set(section.pictures)
    return sections


def _comparison(number, samples, counted_in):
    samples = sorted(samples, key=lambda sample: (list(METHODS).index(sample.config["method"]), _label(sample)))
    lines = [
        Line(
            *((_label(sample), head), sample.config["method"], head, None, sample),
            remark=", ".join(counted_in.get((id(sample), head), ())),
        )
        for sample in samples
        for head in sample.heads
    ]
    name = f"Comparison {number}: {title(samples[0].config)}"
    folders = {folder.parent: None for sample in samples for folder in sample.folders}
    pictures = [path for folder in folders for path in sorted(folder.glob("*.png"))]
    broken = [path for path in pictures if not _is_png(path)]
    return Section(
        name,
        text=_settings(samples[0]),
        table=Filled(name, ("Method", "Head"), metrics_of(samples[0].config), lines, "counted in"),
        items=[*((folder, "") for folder in folders), *((path, "This is no PNG file.") for path in broken)],
        pictures=[path for path in pictures if path not in broken],
    )


def _place(samples):
    """Where a comparison stands: by recipe, network, how much differs from the paper."""
    config = samples[0].config
    recipes, archs = list(RECIPES), list(protocols.ARCHS.get(config["recipe"], ()))
    arch = archs.index(config["arch"]) if archs else 0
    return recipes.index(config["recipe"]), arch, len(_shared(samples[0])), repr(samples[0].folders)


def _shared(sample):
    return [name for name in sample.deviations if name not in OF_METHOD]


def _label(sample):
    """A method, with what of its own settings differs from the paper's."""
    of_method = deviations_in_words(sample.deviations, OF_METHOD)
    return ", ".join(part for part in (METHODS[sample.config["method"]], of_method) if part)


def _settings(sample):
    """The settings that the methods of a comparison share, sentences."""
    config, metrics = sample.config, metrics_of(sample.config)
    computed = f"Computed with {sample.environment}. In %: {names_of(metrics)}; {METRICS[metrics[0]][1]} is better."
    if config["recipe"] not in protocols.ARCHS:
        names = [name for name in config if name not in (*IDENTITY, *ENVIRONMENT)]
        settings = ", ".join(in_words(name, config[name]) for name in names)
        return [f"Not in the paper. Settings: {settings}.", computed]
    differ = deviations_in_words(sample.deviations, _shared(sample))
    settings = f"Settings, the paper's in parentheses: {differ}." if differ else "The paper's settings."
    if config["arch"] not in IN_THE_PAPER:
        settings = f"This network is not in the paper; it is held against the paper's networks of its kind. {settings}"
    return [settings, computed]


def _asides(found):
    """What is not in the tables, and why."""
    whys = {
        "unfinished": "The command that started them goes on with them.",
        "left out": "They are in no table.",
        "there twice": "A copy of a run is not another seed.",
    }
    return [Section(f"Runs {word}", 2, [whys[word]], items=items) for word, items in found.asides.items() if items]


def _is_png(path):
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89PNG\r\n\x1a\n"
    except OSError:
        return False
