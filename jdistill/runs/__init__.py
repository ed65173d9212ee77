"""One run: its configuration, work directory, locks, artefacts and grids of named cells. Knows no stage."""
