"""Values of methods for data that nobody tuned them for, measured on training data before the long part of a run."""

from jdistill.calibration.lab import Calibration, Choice, Lab

__all__ = ["Calibration", "Choice", "Lab"]
