"""The program `whycluster`, also as `python -m whycluster`."""

import sys
from importlib.metadata import version

from whycluster.runs import run

USAGE = """whycluster train …    clusters images: which groups are in a collection?
whycluster explain …  explains clusters: which pixels put an image in its cluster?

whycluster train --help and whycluster explain --help print all settings."""


def main() -> None:
    """Runs the command that the first word names; the others are its settings."""
    match sys.argv[1:2]:
        case [("train" | "explain") as command]:
            sys.argv[1] = f"--config-name={command}"  # what Hydra calls it; Lightning starts other processes so, too
            run(command)
        case ["--config-name=train" | "--config-name=explain" as word]:
            run(word.partition("=")[2])
        case ["--version"]:
            print(f"whycluster {version('whycluster')}")
        case [] | ["--help" | "-h"]:
            print(USAGE)
        case [other]:
            print(f"error: there is no command {other!r}; whycluster --help lists those there are.", file=sys.stderr)
            raise SystemExit(2)


if __name__ == "__main__":
    main()
