"""Write the stamps COMPILED_WITH and BUILT_ON: run after editing a file whose compiled functions
others call, or that the loops of solvers are built on.
"""

import re
import sys
from pathlib import Path

from test_cached_functions_stand_alone import stamps_wanted

sys.path.insert(0, str(Path(__file__).parents[1] / "solvers"))
from test_loop_is_cached import BUILT_ON, SOLVERS, stamp_of_loop

changed = True
while changed:  # the stamp of a file is part of its text, of which others carry the stamp
    changed = False
    for path, stamps in stamps_wanted().items():
        text = path.read_text(encoding="utf-8")
        if not stamps and "COMPILED_WITH" not in text:
            continue
        entries = "".join(f'    "{module}": "{stamp}",\n' for module, stamp in stamps.items())
        block = (
            "# Hashes of the files whose compiled functions are called here (tests/emit).\n"
            f"COMPILED_WITH = {{\n{entries}}}\n"
        )
        if "COMPILED_WITH" in text:
            old = r"# Hashes of the files whose.*\nCOMPILED_WITH = \{\n(.*\n)*?\}\n"
            new = re.sub(old, block, text)
        else:  # behind the last import
            *_, last = re.finditer(r"(?m)^from [^\n]*?import (\([^)]*\)|[^\n(]*)\n", text)
            new = f"{text[: last.end()]}\n{block}{text[last.end() :]}"
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(path)
            changed = True

for module in BUILT_ON:
    path = SOLVERS / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    new = re.sub(r'BUILT_ON = "\w*"', stamp_of_loop(module), text)
    if new != text:
        path.write_text(new, encoding="utf-8")
        print(path)
