"""The engine: the loop, its streams and its checkpoints. Knows contracts, not methods."""

from jdistill.training.checkpoints import Checkpoints
from jdistill.training.loop import Hooks, NotFinite, Outcome, run_loop
from jdistill.training.stream import Stream, suggest_steps_per_call

__all__ = ["Checkpoints", "Hooks", "NotFinite", "Outcome", "Stream", "run_loop", "suggest_steps_per_call"]
