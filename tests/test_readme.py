"""What the README promises to be: short, with the two commands as they are to be copied."""

import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.split()) <= 900


def test_the_two_commands_come_first() -> None:
    first, second, *_ = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert first == "pip install -e . && python train.py && python explain.py\n"
    assert second == 'pip install -e ".[test]" && pytest\n'


def test_every_page_is_linked() -> None:
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\((\S+?\.md)", README))


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[.+?\]\((\S+)\)", README)
    assert len(pictures) == 4
    for picture in pictures:
        assert (ROOT / picture).stat().st_size <= 300_000
        with Image.open(ROOT / picture) as opened:
            assert opened.width <= 1280
