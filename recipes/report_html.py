"""A report as one HTML page that needs no other file."""

import base64
import html
import pathlib

from report_tables import NOT_RUN
from report_text import SOURCE, TITLE, cells

STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #66707d; --line: #d9dee5; --back: #ffffff; --band: #f4f6f9;
  --accent: #1f5fae; --ours: #eef5ee; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ec; --soft: #97a1ad; --line: #39424d; --back: #14181d;
  --band: #1d232a; --accent: #7fb2f0; --ours: #1b2a20; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 66rem; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 3.5rem 0 .5rem; padding-bottom: .3rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.08rem; margin: 2.5rem 0 .4rem; }
p { margin: .4rem 0; max-width: 48rem; }
h3 ~ p, .source { color: var(--soft); font-size: .92rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
nav { margin: 1.5rem 0; padding: .9rem 1.2rem; background: var(--band); border-radius: 6px; columns: 2;
  font-size: .92rem; }
nav a { display: block; break-inside: avoid; } nav a.part { font-weight: 600; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .8rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--soft); white-space: normal; }
td.number, th.number { text-align: right; }
td.ours { background: var(--ours); } td.none { color: var(--soft); font-style: italic; }
td.remark { white-space: normal; min-width: 9rem; color: var(--soft); }
code, pre { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { margin: .4rem 0; padding: .7rem 1rem; background: var(--band); border-radius: 6px; white-space: pre-wrap; }
ul { margin: .4rem 0; padding-left: 1.2rem; font-size: .92rem; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) { nav { columns: 1; } }
"""


def html_page(sections):
    """The report as one HTML page, pictures included; no scripts.

    Args:
        sections: List of `Section`.

    Returns:
        String.

    Raises:
        OSError: if a picture cannot be read.
    """
    body = [f"<h1>{html.escape(TITLE)}</h1>", f'<p class="source">{html.escape(SOURCE)}</p>', "<nav>"]
    for number, section in enumerate(sections):
        part = ' class="part"' if section.level == 2 else ""
        body.append(f'<a{part} href="#s{number}">{html.escape(section.heading)}</a>')
    body.append("</nav>")
    for number, section in enumerate(sections):
        body.append(f'<h{section.level} id="s{number}">{html.escape(section.heading)}</h{section.level}>')
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
        body += _html_of(section)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(TITLE)}</title><style>{STYLE}</style>"
    )
    text = "\n".join(body)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n<main>\n{text}\n</main>\n</body></html>\n'


def _html_of(section):
    """Table, folders, commands and pictures of a section, lines of HTML."""
    if section.table:
        yield from _html_table(section.table)
    if section.items:
        yield "<ul>"
        for path, why in section.items:
            yield f"<li><code>{html.escape(str(path))}</code>{': ' * bool(why)}{html.escape(why)}</li>"
        yield "</ul>"
    if section.commands:
        yield f"<p>{html.escape(section.why_commands)}</p>"
        yield f"<pre>{html.escape(chr(10).join(section.commands))}</pre>"
    for path in section.pictures:
        content, name = base64.b64encode(pathlib.Path(path).read_bytes()).decode(), html.escape(str(path))
        image = f'<img alt="{name}" src="data:image/png;base64,{content}">'
        yield f"<figure>{image}<figcaption>{name}</figcaption></figure>"


def _html_table(table):
    header, rows = cells(table)
    labels = len(table.columns)
    classes = ["label"] * labels + ["number"] * (len(header) - labels - 1) + ["remark"]
    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f'<th class="{kind}">{html.escape(text)}</th>' for kind, text in zip(classes, header, strict=True))
    yield "</tr></thead><tbody>"
    for row in rows:
        line = []
        for index, (kind, text) in enumerate(zip(classes, row, strict=True)):
            ours = " ours" if index in (len(row) - 4, len(row) - 3) and text != NOT_RUN else ""
            none = " none" if text == NOT_RUN else ""
            line.append(f'<td class="{kind}{ours}{none}">{html.escape(text)}</td>')
        yield f"<tr>{''.join(line)}</tr>"
    yield "</tbody></table></div>"
