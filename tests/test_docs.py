"""README and documentation: code prints what is printed, commands can be met, tables, links and sources are current."""

import argparse
import ast
import contextlib
import functools
import io
import itertools
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from whycluster import ClusterModel, Explainer, neuralize
from whycluster.backbones import build_backbone
from whycluster.explain import parse_target
from whycluster.output.export import check_export

ROOT = Path(__file__).parents[1]
SETTINGS = runpy.run_path(str(ROOT / "docs" / "settings.py"))
FILES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PAGES = {file.name: file for file in FILES}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
SOURCE = re.compile(r"(?:arXiv|doi) (\d+\.[\w./()-]*\w)")  # a number as in "arXiv 1906.07633"
QUIET = "+trainer.enable_progress_bar=false"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    printed: str | None  # the text block that follows


class Command(NamedTuple):
    """One of our commands as somebody types it."""

    name: str  # train or explain
    words: list[str]


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    return [Block(language, code, printed or None) for language, code, printed in BLOCK.findall(text_of(page))]


def lines(page: str) -> Iterator[list[str]]:
    """The words of every shell command of a page."""
    for block in blocks(page):
        if block.language == "bash":
            yield from shell_words(block.code)


def shell_words(code: str) -> Iterator[list[str]]:
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        for separator, group in itertools.groupby(words, lambda word: word == "&&"):
            if not separator:
                yield list(group)


def ours(words: list[str]) -> Command | None:
    """What a line asks of this program; `None` for lines of other programs."""
    if words[0] == "whycluster":
        return Command(words[1], words[2:])
    if words[0] == "python" and words[1] in ("train.py", "explain.py"):
        return Command(words[1].removesuffix(".py"), words[2:])
    return None


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, but for some photos, with the presets that the pages show."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    for folder, name in itertools.product(("photos", "my photos", "other_photos"), "abcdefghij"):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(random.randint(0, 255, (40, 48, 3), np.uint8)).save(tmp_path / folder / f"{name}.jpg")
    for page in PAGES:
        for block in blocks(page):
            if block.language == "yaml":
                file = tmp_path / block.code.splitlines()[0].removeprefix("# ")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.code)
    return tmp_path


def run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command in this process, as if it had been typed."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [f"{command.name}.py", *command.words, QUIET, "trainer.accelerator=cpu"])
    status: Any = 0
    try:
        source = (ROOT / f"{command.name}.py").read_text(encoding="utf-8")
        exec(compile(source, f"{command.name}.py", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        status = stop.code
    assert not status


def shortened(command: Command, number: int) -> Command:
    """The same with few images, random weights, and, where it names none, a run folder that no other command has."""
    folder = "data=folder" in command.words
    few = ["limit=2"] if command.name == "explain" else ["backbone.weights=null"] if folder else ["data.limit=60"]
    named = [word for word in command.words if word.startswith("hydra.run.dir=")]
    place = [] if named else [f"hydra.run.dir=outputs/{command.name}/{number}"]
    return Command(command.name, [*command.words, *few, *place])


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize("page", PAGES)
def test_code_prints_what_is_printed(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python, and commands whose output is shown; of the README all commands, as newcomers type them."""
    names: dict[str, Any] = {}
    numbers = itertools.count()
    for block in blocks(page):
        printed = io.StringIO()
        if block.language == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile(block.code, page, "exec"), names)
        elif block.language == "bash" and (block.printed or page == "README.md"):
            for words in shell_words(block.code):
                command = ours(words)
                if command is not None:
                    with contextlib.redirect_stdout(printed):
                        run(command if block.printed else shortened(command, next(numbers)), monkeypatch)
            if block.printed is None:
                continue
        assert [line.rstrip() for line in printed.getvalue().splitlines()] == (block.printed or "").splitlines()


COMMANDS = list(dict.fromkeys((page, shlex.join(words)) for page in PAGES for words in lines(page) if ours(words)))


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_can_be_met(page: str, line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting in the pages exists, and has a value that is allowed."""
    command = ours(shlex.split(line))
    assert command is not None
    if command.words == [] and command.name in ("--help", "--version"):
        return
    arguments = flags().parse_args(command.words)
    search = [f"hydra.searchpath=['file://{Path(arguments.config_dir).absolute()}']"] if arguments.config_dir else []
    for job in jobs(arguments.overrides, arguments.several):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(command.name, [*job, *search])
        check_values(command.name, config, monkeypatch)


def flags() -> argparse.ArgumentParser:
    """Those flags of Hydra's that the pages use."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", action="store_true", dest="several")
    parser.add_argument("--help", action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--config-dir")
    return parser


def jobs(overrides: list[str], several: bool) -> Iterator[list[str]]:
    """The overrides of each job; there is one, unless several are asked for."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    assert several or not any(one.is_sweep_override() for one in parsed)
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line]
        for one in parsed
    ]
    yield from map(list, itertools.product(*values))


def check_values(command: str, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "train":
        hydra.utils.instantiate(config.head)
        hydra.utils.instantiate(config.data)
        check_export(config.export)
        config.backbone.weights = None  # others are not here
        with monkeypatch.context() as patched:
            for draw in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "trunc_normal_"):
                patched.setattr(torch.nn.init, draw, lambda tensor, *_, **__: torch.nn.init.zeros_(tensor))
            built(OmegaConf.to_yaml(config.backbone))
    else:
        composite = "epsilon_plus" if config.composite == "auto" else config.composite  # a run chooses
        rules = (composite, config.head_rule, config.beta, config.residual, config.attention, config.gamma)
        parse_target(config.target, model().n_clusters)
        Explainer(model(), *rules)
        hydra.utils.instantiate(config.evaluation)


@functools.cache
def built(backbone: str) -> None:
    hydra.utils.instantiate(OmegaConf.create(backbone))


@functools.cache
def model() -> ClusterModel:
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    return ClusterModel(backbone, neuralize(torch.rand(10, backbone.n_features)))


def test_scripts_and_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in itertools.chain.from_iterable(map(lines, PAGES)):
        for word in words:
            assert not word.endswith(".py") or (ROOT / word).is_file(), word
            assert set(re.findall(r"^\.\[(\w+)\]$", word)) <= set(extras), word


def test_tables_of_settings_are_current() -> None:
    page = text_of("commands.md")
    assert SETTINGS["rewritten"](page) == page, "python docs/settings.py writes them anew"


def test_tables_of_settings_hold_what_hydra_composes() -> None:
    """An independent look: every value that a command composes to by default stands in a row."""
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `?([^`|]*)`? \|", text_of("commands.md"), re.MULTILINE))
    shared = ("batch_size", "limit")  # settings of both commands
    for command in ("train", "explain"):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(command)
        for name, value in flat(OmegaConf.to_container(config)):
            if name in shared or name.split(".")[-1] in ("_target_", "_partial_", "folder", "save_dir"):
                continue
            assert name in rows
            if not name.startswith(("head.", "backbone.", "data.")):  # of these, every option has rows of its own
                assert OmegaConf.create(f"value: {rows[name]}").value == value, name


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def anchors(page: str) -> set[str]:
    """What headings are called in links, as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", re.sub(BLOCK, "", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(BLOCK, "", text_of(page))):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            there = (PAGES[page].parent / file).resolve() if file else PAGES[page]
            assert there.exists(), link
            assert not anchor or anchor in anchors(there.name), link


def test_every_benchmark_is_listed() -> None:
    scripts = {path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")} - {"measure.py", "planting.py"}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", text_of("benchmarks.md"), re.MULTILINE)) == scripts


def test_sources_in_the_code_are_among_the_references() -> None:
    given = set(SOURCE.findall(text_of("references.md")))
    cited = {one for path in (ROOT / "src").rglob("*.py") for one in SOURCE.findall(path.read_text(encoding="utf-8"))}
    assert cited <= given
    assert len(cited) > 5


def test_rooms_import_from_rooms_above_them_only() -> None:
    table = text_of("architecture.md").split("| room |")[1].split("\n\n")[0]
    rooms = [name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"\w+", row)]
    source = ROOT / "src" / "whycluster"
    files = {path.relative_to(source): path for path in source.rglob("*.py")}
    packages = {path.parts[0] for path in files if len(path.parts) > 1}
    assert packages <= set(rooms)
    for path, file in files.items():
        room = path.parts[0].removesuffix(".py")
        allowed = rooms[: rooms.index(room) + 1] if room in rooms else rooms  # entry points may import all
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("whycluster."):
                assert str(node.module).split(".")[1] in allowed, f"{path} imports {node.module}"
