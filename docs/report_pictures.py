"""Draws the pictures of the report page in the README: `python train.py && python explain.py`, then this script.

It needs Playwright's package, and Chromium: `apt install chromium`.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Page, sync_playwright

from whycluster.output.tables import read_table

PICTURES = Path(__file__).parents[1] / ".github"
WIDTH = 1280  # pixels of the pictures


class View(NamedTuple):
    """What a picture shows: a view of the page, with clusters by their digits, from some element on downwards."""

    name: str
    address: str
    first: str
    height: int


VIEWS = (
    View("overview", "", "main", 1000),
    View("cluster", "#cluster={2}", "main", 980),
    View("contrast", "#cluster={3}&rival={9}", "#contrast", 740),
)
STICKY = 100  # pixels of what stays at the top of the screen, above the first element


def main() -> None:
    """Writes the pictures of the newest explain run."""
    run = max(Path("outputs/explain").glob("*/report.html"), key=lambda file: file.stat().st_mtime).parent
    cluster_of = clusters_of_digits(run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for view in VIEWS:
            page = browser.new_page(viewport={"width": WIDTH, "height": view.height})
            page.goto((run / "report.html").resolve().as_uri() + view.address.format(*cluster_of))
            draw(page, view)
        browser.close()


def clusters_of_digits(run: Path) -> list[int]:
    """Returns a cluster of each digit: one whose most typical image shows it."""
    label_of = {row["path"]: row["label"] for row in read_table(run / "assignments.csv")}
    clusters = json.loads((run / "clusters.json").read_text(encoding="utf-8"))
    found = {label_of[cluster["prototypes"][0]]: cluster["cluster"] for cluster in clusters}
    return [found.get(str(digit), 0) for digit in range(10)]


def draw(page: Page, view: View) -> None:
    """Takes a picture, once the photos and heatmaps in it are drawn."""
    page.locator(view.first).evaluate(f"(part) => scrollTo(0, part.getBoundingClientRect().top + scrollY - {STICKY})")
    page.wait_for_timeout(1500)
    page.screenshot(path=PICTURES / f"report_{view.name}.png")


if __name__ == "__main__":
    main()
