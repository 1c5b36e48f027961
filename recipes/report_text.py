"""A report as Markdown and as CSV, and the cells of its tables."""

import csv
import io
import os
import pathlib
import re

from published import names_of
from report_runs import deviations_in_words
from report_tables import NOT_RUN

TITLE = "Dynamic Hierarchical Mimicking: the paper's numbers and ours"
SOURCE = (
    "Paper: Duo Li and Qifeng Chen, Dynamic Hierarchical Mimicking Towards Consistent Optimization Objectives, CVPR "
    "2020, and its supplement."
)
NO_NUMBER = "-"


def cells(table):
    """A table as text.

    Args:
        table: `Filled`.

    Returns:
        `(header, rows)`: a list of strings and a list of such lists. A first label that the row above has, too, is
        empty, as in the paper.
    """
    names = names_of(table.metrics)
    has_paper = any(line.published for line in table.lines)
    header = [
        *table.columns,
        *([f"paper: {names}"] if has_paper else []),
        f"ours, best epoch{'' if has_paper else f': {names}'}",
        f"ours, last epoch{'' if has_paper else f': {names}'}",
        "seeds",
        table.remark,
    ]
    rows, above = [], None
    for line in table.lines:
        first, *others = line.labels
        rows.append(
            [
                "" if len(table.columns) > 1 and first == above else first,
                *others,
                *([_numbers(line.published, table.digits)] if has_paper else []),
                *_ours(line, table),
                line.remark,
            ]
        )
        above = first
    return header, rows


def _ours(line, table):
    """The cells of our runs: best and last epoch, seeds."""
    if line.sample is None:
        return [NOT_RUN, NOT_RUN, ""]
    epochs = [
        _numbers([line.sample.numbers(line.head, metric, when) for metric in table.metrics], table.digits)
        for when in ("best", "last")
    ]
    n = len(line.sample.runs)
    seeds = f"{n} of {table.seeds}" if table.seeds and n < table.seeds else str(n)
    return [*epochs, seeds]


def _numbers(numbers, digits):
    """`30.306 (0.207)` for a mean with its deviation, `30.046 / 10.752` for two metrics."""
    return " / ".join(NO_NUMBER if number is None else _number(number, digits) for number in numbers)


def _number(number, digits):
    mean, *deviation = (f"{value:.{digits}f}" for value in number)
    return f"{mean} ({deviation[0]})" if deviation else mean


def markdown(sections, folder):
    """The report in Markdown.

    Args:
        sections: List of `Section`.
        folder: Path of the folder that it will lie in; pictures are named from there.

    Returns:
        String.
    """
    parts = [f"# {TITLE}", _escape(SOURCE)]
    for section in sections:
        parts += [f"{'#' * section.level} {_escape(section.heading)}", *map(_escape, section.text)]
        if section.table:
            header, rows = cells(section.table)
            labels = len(section.table.columns)
            rule = ["---"] * labels + ["---:"] * (len(header) - labels - 1) + ["---"]
            lines = [header, rule, *rows]
            parts.append("\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines))
        if section.items:
            parts.append("\n".join(f"- `{path}`{': ' * bool(why)}{_escape(why)}" for path, why in section.items))
        if section.commands:
            parts += [section.why_commands, "\n".join(["```bash", *section.commands, "```"])]
        for path in section.pictures:
            link = pathlib.PurePath(os.path.relpath(path, folder)).as_posix()
            parts.append(f"![{_escape(str(path))}](<{link}>)")
    return "\n\n".join(parts) + "\n"


def _escape(text):
    return re.sub(r"([\\|<>*`\[\]])", r"\\\1", text)


CSV_COLUMNS = (
    *("table", "row", "method", "head", "metric", "epoch", "published_mean", "published_std", "ours_mean", "ours_std"),
    *("seeds", "deviations", "computed_with", "folders"),
)


def csv_text(sections):
    """The numbers of the report as CSV: a row for each table, row, head, metric and epoch (`best` or `last`).

    Numbers are in per cent, ours not rounded, and empty where there is none. `seeds` is how many runs a number is of, 0
    where nothing was run; `deviations` is what differs from the paper's settings.

    Args:
        sections: List of `Section`.

    Returns:
        String.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for table in [section.table for section in sections if section.table]:
        for line in table.lines:
            for index, metric in enumerate(table.metrics):
                for epoch in ("best", "last"):
                    writer.writerow(_csv_row(table, line, index, metric, epoch))
    return file.getvalue()


def _csv_row(table, line, index, metric, epoch):
    row = {"table": table.name, "row": ", ".join(line.labels), "method": line.method, "head": line.head}
    row |= {"metric": metric, "epoch": epoch, "seeds": 0}
    if line.published:
        published = (f"{value:.{table.digits}f}" for value in line.published[index])
        row |= dict(zip(("published_mean", "published_std"), published))
    if line.sample:
        ours = line.sample.numbers(line.head, metric, epoch) or ()
        row |= dict(zip(("ours_mean", "ours_std"), (repr(round(value, 9)) for value in ours)))
        row |= {
            "seeds": len(line.sample.runs),
            "deviations": deviations_in_words(line.sample.deviations),
            "computed_with": line.sample.environment,
            "folders": ";".join(map(str, line.sample.folders)),
        }
    return row
