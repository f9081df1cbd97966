"""`report.html`: one file with all its pictures, or, of many images, a page with a folder of sheets beside it."""

import base64
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from whycluster.errors import UserError
from whycluster.files import sync, written_whole
from whycluster.output.report.content import content
from whycluster.output.report.pictures import Pictures, draw_pictures
from whycluster.output.report.run_files import RunFiles, read_run, thinned
from whycluster.output.report.sheets import SHEET

PAGE = "report.html"
FOLDER = "report_sheets"  # beside the page, for its sheets
BESIDE = ".report_sheets.part"  # what FOLDER is called until it is complete
LARGEST = 25_000_000  # bytes of a page that holds its pictures
MOST_IMAGES = 20_000  # that a page shows
TEMPLATES = Path(__file__).with_name("page")
SCRIPTS = (
    "base.js",
    "pictures.js",
    "parts.js",
    "concepts.js",
    "help.js",
    "overview.js",
    "distances.js",
    "cluster.js",
    "image.js",
    "main.js",
)


class Shown(NamedTuple):
    """The numbers of images of a run, of those on its page, and of those without a picture there, as files are gone."""

    images: int
    on_page: int
    missing: int


def write_report(run: Path, largest: int = LARGEST, most_images: int = MOST_IMAGES) -> Shown:
    """Writes the page of an explain run, from the files of the run alone, in place of one that is there.

    Args:
        run: the folder of the run.
        largest: bytes of a page that holds its pictures; above, they lie in the folder `report_sheets` beside it.
        most_images: that are shown; of more, those that `clusters.json` names, and a part of the others.

    Returns:
        How many images there are, and how many of them are shown.

    Raises:
        UserError: if a table is missing that the page needs, or if `report_sheets` holds what no page has written.
    """
    beside, sheets = run / BESIDE, run / FOLDER
    _check_sheets(sheets)
    whole = read_run(run)
    files = thinned(whole, most_images)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        pictures = draw_pictures(files, beside)
        page = _page(whole, files, pictures, _data_urls) if _size(beside) * 4 / 3 < largest else None
        one_file = page is not None and len(page) <= largest
        if page is None or not one_file:
            page = _page(whole, files, pictures, _relative_urls)
        with written_whole(run / PAGE) as file:
            file.write_bytes(page)
            if not one_file:  # a page shows wrong pictures beside the sheets of another one: both change at once
                for written in (file, *beside.iterdir(), beside):
                    sync(written)
                _remove_sheets(sheets)
                os.replace(beside, sheets)
        if one_file:
            _remove_sheets(sheets)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Shown(len(whole.paths), len(files.paths), pictures.missing)


def _check_sheets(folder: Path) -> None:
    """Raises `UserError` if there is anything at `folder` but a folder of sheets."""
    if folder.is_dir() and not folder.is_symlink():
        others = [file for file in folder.iterdir() if not (SHEET.fullmatch(file.name) and file.is_file())]
    else:
        others = [folder] if os.path.lexists(folder) else []
    if others:
        raise UserError(
            f"the page keeps its pictures in {str(folder)!r}, and does not replace what it has not written there, such "
            f"as {others[0].name!r}; move that elsewhere."
        )


def _remove_sheets(folder: Path) -> None:
    """Removes a folder of sheets, where there is one."""
    _check_sheets(folder)
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _page(
    run: RunFiles, files: RunFiles, pictures: Pictures, addresses: Callable[[Sequence[Path]], list[str]]
) -> bytes:
    """Renders the page with the addresses of its sheets, by kind."""
    urls = {kind: addresses(sheets.files) for kind, sheets in pictures.sheets.items()}
    return render(content(run, files, pictures, urls)).encode()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def render(data: Mapping[str, Any]) -> str:
    """Renders the page.

    Style and script carry their hashes in the Content-Security-Policy, so that nothing else is executed.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    style = _text("style.css")
    script = f'"use strict";\n(() => {{\n{"".join(map(_text, SCRIPTS))}}})();\n'
    page: str = environment.get_template("page.html.jinja").render(
        data=data, style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script)
    )
    return page


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data_urls(files: Sequence[Path]) -> list[str]:
    return [f"data:image/webp;base64,{base64.b64encode(file.read_bytes()).decode()}" for file in files]


def _relative_urls(files: Sequence[Path]) -> list[str]:
    return [f"{FOLDER}/{file.name}" for file in files]
