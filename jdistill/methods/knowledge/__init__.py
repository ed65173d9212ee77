"""Knowledge distillation of networks: recipes, and the builder that trains them."""

from jdistill.base import Data
from jdistill.methods.knowledge.recipe import Memory, Order, Outer, Recipe, Sight, Term, View
from jdistill.methods.knowledge.student import Epoch, StudentState, Trained, predictor, student_method

__all__ = [
  "Data",
  "Epoch",
  "Memory",
  "Order",
  "Outer",
  "Recipe",
  "Sight",
  "StudentState",
  "Term",
  "Trained",
  "View",
  "predictor",
  "student_method",
]
