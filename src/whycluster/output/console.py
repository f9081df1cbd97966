"""What a run says to the person in front of it."""

from pathlib import Path

from rich.console import Console

_console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Prints a line."""
    _console.print(line, markup=False)


def short(path: Path) -> Path:
    """The path as seen from the current folder, if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
