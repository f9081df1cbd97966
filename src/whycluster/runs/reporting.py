"""The page of an explain run, written anew from the files of the run, without a network."""

from pathlib import Path

from filelock import FileLock, Timeout

from whycluster.data.listing import FINISHED
from whycluster.errors import UserError
from whycluster.output.console import say, short
from whycluster.output.report import PAGE, write_report
from whycluster.runs.folders import asked
from whycluster.runs.ranks import is_first


def check_report(report: bool | str) -> None:
    """Checks the setting `report`; else `UserError`."""
    if report is not True and report is not False and report != "only":
        raise UserError(f"report={report!r} should be true, false or only.")


def write_again(folder: Path) -> int:
    """Writes the page of a finished explain run anew, in place of the one that is there.

    Args:
        folder: of the run.

    Returns:
        How many images the run has explained.

    Raises:
        UserError: if there is no finished explain run, if it is worked on, or if a table is gone.
    """
    if not (folder / FINISHED).is_file() or asked(folder).get("command") != "explain":
        raise UserError(
            f"report=only writes the page of a finished explain run, and {str(folder)!r} holds none; name its folder "
            "by hydra.run.dir=outputs/explain/..."
        )
    if not is_first():
        return 0
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"the run folder {str(folder)!r} is worked on by another process; try again later.") from None
    with lock:
        shown = write_report(folder)
    if shown.missing:
        say(f"{shown.missing} of {shown.on_page} images have no picture: files in heatmaps or relevance are gone")
    say(f"open in a browser: {short(folder / PAGE)}")
    return shown.images
