"""The engine: the loop and its checkpoints. Knows contracts, not methods."""

from jdistill.training.checkpoints import Checkpoints
from jdistill.training.loop import Hooks, Outcome, guarded, run_loop

__all__ = ["Checkpoints", "Hooks", "Outcome", "guarded", "run_loop"]
