"""Writes the tables of settings in `docs/commands.md` from `conf/`, whose comments are the descriptions.

python docs/settings.py
"""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

CONF = Path(__file__).parents[1] / "conf"
PAGE = Path(__file__).with_name("commands.md")
BEGIN, END = "<!-- settings: written by docs/settings.py -->\n", "<!-- settings: end -->\n"
# A key with its value and its comment; entries of lists and comments of their own lines are none.
LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s].*?))?(?: +# *(?P<comment>.*))?")
OURS = {"_target_", "_partial_", "defaults", "hydra"}  # what makes the command, and nobody sets


class Setting(NamedTuple):
    """One row of a table."""

    name: str
    default: str
    meaning: str


def settings(file: Path, prefix: str = "") -> list[Setting]:
    """The settings of a YAML file, with dotted names; those of nested keys follow each other."""
    found: list[Setting] = []
    parents: list[tuple[int, str]] = []  # keys that the line stands below, with their indents
    for line in file.read_text(encoding="utf-8").splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            continue
        indent, key, value, comment = len(match["indent"]), match["key"], match["value"], match["comment"]
        while parents and parents[-1][0] >= indent:
            parents.pop()
        path = [*(name for _, name in parents), key]
        if OURS & set(path) or value is None:
            parents.append((indent, key))
        else:
            found.append(Setting(prefix + ".".join(path), "required" if value == "???" else value, comment or ""))
    return found


def about(file: Path) -> str:
    """The first comment of a file that is for people, as a sentence."""
    comments = (line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    return next((comment for comment in comments if not comment.startswith("@")), "")


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "&#124;").replace("<", "&lt;")


def table(rows: list[Setting]) -> str:
    """Rows as Markdown."""
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for row in rows:
        default = "required" if row.default == "required" else f"`{row.default}`"
        lines.append(f"| `{row.name}` | {default} | {escaped(row.meaning)} |")
    return "\n".join(lines) + "\n"


def groups(command: str) -> dict[str, str]:
    """The groups of a command, with their defaults, such as `{"head": "kmeans"}`."""
    defaults = yaml.safe_load((CONF / f"{command}.yaml").read_text(encoding="utf-8"))["defaults"]
    pairs = [pair for one in defaults if isinstance(one, dict) for pair in one.items()]
    return {group: option for group, option in pairs if not group.startswith("override ")}


def options(group: str) -> list[str]:
    """What a group can be set to."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def presets(group: str) -> dict[str, dict[str, object]]:
    """The options of a group that only set a few keys of another option, with what they set."""
    found = {}
    for option in options(group):
        content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
        base = [one for one in content.pop("defaults", []) if isinstance(one, str)]
        if base:
            found[option] = {group: base[0], **{f"{group}.{key}": value for key, value in content.items()}}
    return found


def preset_table(group: str, short: dict[str, dict[str, object]]) -> str:
    """What presets stand for; those that differ by their names alone share a row."""
    rows: dict[str, list[str]] = {}
    for option, what in short.items():
        words = [f"{key}=…" if value == option else f"{key}={value}" for key, value in what.items()]
        rows.setdefault(" ".join(words), []).append(f"`{option}`")
    lines = [f"| {', '.join(names)} | `{words}` |" for words, names in rows.items()]
    return "\n".join(["| short name (…) | stands for |", "| --- | --- |", *lines]) + "\n"


def command_section(command: str) -> str:
    """The table of one command: its groups, then its own settings."""
    chosen = [
        Setting(group, option, ", ".join(f"`{name}`" for name in options(group)))
        for group, option in groups(command).items()
        if len(options(group)) > 1
    ]
    return f"### `{command}.py`\n\n" + table([*chosen, *settings(CONF / f"{command}.yaml")])


def group_section(group: str) -> str:
    """The tables of a group, one for each option that has settings of its own, then its presets."""
    short = presets(group)
    parts = [f"### `{group}`\n"]
    for option in options(group):
        if option in short:
            continue
        file = CONF / group / f"{option}.yaml"
        remark = about(file)
        parts.append(f"`{group}={option}`{f': {remark}' if remark else ''}\n")
        nested = f"{group}:" in file.read_text(encoding="utf-8").splitlines()  # a file of the whole config
        parts.append(table(settings(file, "" if nested else f"{group}.")))
    if short:
        parts.append(preset_table(group, short))
    return "\n".join(parts)


def sections() -> str:
    """All tables."""
    named = dict.fromkeys(group for command in ("train", "explain") for group in groups(command))
    return "\n".join([*map(command_section, ("train", "explain")), *map(group_section, named)])


def rewritten(page: str) -> str:
    """A page with the tables of now between its two marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{sections()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
