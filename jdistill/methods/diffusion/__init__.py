"""Distillation of diffusion models: recipes with updates of their own, for denoisers and the task `samples`."""
