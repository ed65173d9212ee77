"""Distillation of diffusion models: recipes with updates of their own, and samplers that learn."""
