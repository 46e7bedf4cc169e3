"""Print the lower bounds of pyproject.toml as pip constraints: `sympy>=1.13` -> `sympy==1.13`."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({r for group in groups for r in group}):
    if requirement.startswith("dmft["):
        continue
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement)
    if found is None:
        raise SystemExit(f"{requirement!r} has no lower bound")
    print(f"{found.group(1)}=={found.group(2)}")
