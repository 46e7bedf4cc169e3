"""Write `docs/matrix.md` from what the library does: `python tests/matrix`."""

import sys
from pathlib import Path

import cells
import page

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"

if __name__ == "__main__":
    outcomes = {}
    for cell in cells.CELLS:
        outcomes[cell] = cells.outcome(cell)
        if cell.loss == next(reversed(cells.LOSSES)):
            print(cell.row, cell.kind, cell.law, file=sys.stderr)
    PAGE.write_text(page.write(outcomes, cells), encoding="utf-8")
