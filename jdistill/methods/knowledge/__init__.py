"""Knowledge distillation of networks: recipes, and the builder that trains them."""

from jdistill.base import Batch
from jdistill.methods.knowledge.look import look
from jdistill.methods.knowledge.recipe import Memory, Outer, Recipe, Sampling, StepOutputs, Term
from jdistill.methods.knowledge.student import Sharpness, StudentInput, StudentState, Trained, predictor, student_method

__all__ = [
  "Batch",
  "Memory",
  "Outer",
  "Recipe",
  "Sampling",
  "Sharpness",
  "StepOutputs",
  "StudentInput",
  "StudentState",
  "Term",
  "Trained",
  "look",
  "predictor",
  "student_method",
]
