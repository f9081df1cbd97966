import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from whycluster.output.console import override, say

NAMES = (
    "run",
    "my run",
    "it's",
    "it's $x",
    'a "b"',
    "back\\slash",
    "end\\",
    "\\'",
    "`touch gone`",
    "!!",
    "a=b,c",
    "ä [1]",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_arrives_through_the_shell_and_hydra(name):
    line = override("hydra.run.dir", name)
    [word] = shlex.split(line)
    assert OverridesParser.create().parse_override(word).value() == name
    echoed = subprocess.run(["bash", "-c", f"printf %s {line}"], capture_output=True, text=True, check=True)
    assert echoed.stdout == word


def test_no_name_steers_the_terminal(capsys):
    say("not laid out: \x1b[31mred\x07\r\n\x9b.png: é [bold]")
    assert capsys.readouterr().out == "not laid out: \\x1b[31mred\\x07\\r\\n\\x9b.png: é [bold]\n"
