"""The commands that README and docs print."""

import re
import shlex

from programs import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def printed():
    """Dict from each command, a string, to the names of the pages that print it."""
    found = {}
    for page in PAGES:
        for command in [*of_blocks(page.read_text()), *of_tables(page.read_text())]:
            found.setdefault(command, []).append(page.name)
    return found


def of_blocks(text):
    """Commands of a page's bash blocks, and those that stand in a sentence."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if command := re.sub(r"(^|\s)#.*$", "", line).strip():
                yield " ".join(command.split())
    without = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`(python [^`]+)`", without):
        yield " ".join(code.split())


def of_tables(text):
    """Commands of the tables that say in their head what they come after."""
    for after, rows in re.findall(r"command, after `([^`]+)`[^\n]*\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", text):
        for code in re.findall(r"`([^`]+)`", rows):
            if code.startswith(("curves", "heatmaps", "agreement", "activations", "tsne")):
                yield f"{after} {code}"
            elif re.match(r"\w+\.py ", code):
                yield f"{after}{code}"


def arguments(command):
    """What a recipe is given: the words behind its name."""
    return shlex.split(command)[2:]
