import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "outputs/" not in block])
def test_python_runs_as_printed(block):
    exec(compile(block, "README.md", "exec"), {})


def test_settings_in_the_tables_exist():
    conf = Path(__file__).parents[1] / "conf"
    for command in ("train", "explain"):
        table = README.split(f"| `{command}.py` |")[1].split("\n\n")[0]
        config = (conf / f"{command}.yaml").read_text()
        for row in table.splitlines()[2:]:
            for name in re.findall(r"`(\w+)`", row.split("|")[1]):
                assert f"{name}:" in config, name
