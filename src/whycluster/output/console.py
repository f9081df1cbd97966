"""Printing to the terminal: lines, tables, and commands to paste."""

import re
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

WIDTH = 160  # characters, the least width of a table; in narrower ones numbers are broken over lines

_console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Prints a line; control characters, by which a file name could steer the terminal, are escaped."""
    _console.print(re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda sign: repr(sign[0])[1:-1], line), markup=False)


def show(table: Table) -> None:
    """Prints a table as wide as it has to be."""
    Console(highlight=False, width=max(_console.width, WIDTH)).print(table)


def short(path: Path) -> Path:
    """Returns the path relative to the current folder, if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def typed(command: str) -> str:
    """Returns how the user starts a command, `train` or `explain`, by the way this program was started."""
    script = Path(sys.argv[0])
    if script.stem in ("train", "explain"):
        return f"python {shell_word(str(script.with_name(f'{command}.py')))}"
    return f"{'python -m ' if script.stem == '__main__' else ''}whycluster {command}"


def override(name: str, value: object) -> str:
    """Formats a setting to paste into a shell: odd characters need quotes for Hydra, and those need quotes for the
    shell.

    Example:
        >>> print(override("checkpoint", "outputs/train/a"), override("checkpoint", "my run"))
        checkpoint=outputs/train/a "checkpoint='my run'"
    """
    text = str(value)
    if re.fullmatch(r"[\w./:-]+", text, re.ASCII):
        return f"{name}={text}"
    # Within Hydra's quotes a quote needs a backslash before it, and so does each backslash before a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return shell_word(f"{name}='{quoted}'")


def shell_word(word: str) -> str:
    """Quotes a word to paste into a shell; one with single quotes in it gets double quotes where that is possible.

    Example:
        >>> print(shell_word("seed=3"), shell_word("data.root=my photos"), shell_word("data.root='my photos'"))
        seed=3 'data.root=my photos' "data.root='my photos'"
    """
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)
