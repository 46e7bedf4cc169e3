"""Write `docs/matrix.md` from what the library does: `python tests/matrix`."""

import sys
from pathlib import Path

import cells
import optimised
import page

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"

if __name__ == "__main__":
    outcomes = {}
    for cell in (*cells.CELLS, *optimised.CELLS):
        outcomes[cell] = cells.outcome(cell)
        if cell.loss in (list(cells.LOSSES)[-1], list(optimised.LOSSES)[-1]):
            print(cell.row, cell.kind, cell.law, file=sys.stderr)
    PAGE.write_text(page.write(outcomes, cells, optimised), encoding="utf-8")
