"""Selection of real examples."""

from jdistill.catalog.row import Row

ROWS: tuple[Row, ...] = ()
