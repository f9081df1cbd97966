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

from whycluster.files import written_whole
from whycluster.output.report.content import content
from whycluster.output.report.pictures import Pictures, draw_pictures
from whycluster.output.report.run_files import RunFiles, read_run, thinned

PAGE = "report.html"
FOLDER = "report"  # beside the page, for its sheets
BESIDE = ".report.part"  # what FOLDER is called until it is complete
LARGEST = 25_000_000  # bytes of a page that holds its pictures
MOST_IMAGES = 20_000  # that a page shows
TEMPLATES = Path(__file__).with_name("page")
SCRIPTS = ("base.js", "pictures.js", "parts.js", "overview.js", "cluster.js", "image.js", "main.js")


class Shown(NamedTuple):
    """The numbers of images of a run, of those on its page, and of those without a picture there, as files are gone."""

    images: int
    on_page: int
    missing: int


def write_report(run: Path, largest: int = LARGEST, most_images: int = MOST_IMAGES) -> Shown:
    """Writes the page of an explain run, from the files of the run alone, in place of one that is there.

    Args:
        run: the folder of the run.
        largest: bytes of a page that holds its pictures; above, they lie in the folder `report` beside it.
        most_images: that are shown; of more, those that `clusters.json` names, and a part of the others.

    Returns:
        How many images there are, and how many of them are shown.

    Raises:
        UserError: if a table is missing that the page needs.
    """
    files = thinned(read_run(run), most_images)
    beside = run / BESIDE
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        pictures = draw_pictures(files, beside)
        page = _page(files, pictures, _data_urls) if _size(beside) * 4 / 3 < largest else None
        if page is None or len(page) > largest:
            page = _page(files, pictures, _relative_urls)
            shutil.rmtree(run / FOLDER, ignore_errors=True)
            os.replace(beside, run / FOLDER)
        else:
            shutil.rmtree(run / FOLDER, ignore_errors=True)
        with written_whole(run / PAGE) as file:
            file.write_bytes(page)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Shown(files.n_images, len(files.paths), pictures.missing)


def _page(files: RunFiles, pictures: Pictures, addresses: Callable[[Sequence[Path]], list[str]]) -> bytes:
    """Renders the page with the addresses of its sheets, by kind."""
    urls = {kind: addresses(sheets.files) for kind, sheets in pictures.sheets.items()}
    return render(content(files, pictures, urls)).encode()


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
