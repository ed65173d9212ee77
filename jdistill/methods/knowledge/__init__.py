"""Knowledge distillation of networks: recipes, and the builder that trains them."""

from jdistill.base import Batch
from jdistill.methods.knowledge.recipe import Look, Memory, Order, Outer, Recipe, StepOutputs, Term
from jdistill.methods.knowledge.student import Epoch, StudentState, Trained, predictor, student_method

__all__ = [
  "Batch",
  "Epoch",
  "Look",
  "Memory",
  "Order",
  "Outer",
  "Recipe",
  "StepOutputs",
  "StudentState",
  "Term",
  "Trained",
  "predictor",
  "student_method",
]
