"""What a run says to the person in front of it."""

from rich.console import Console

_console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Prints a line."""
    _console.print(line, markup=False)
