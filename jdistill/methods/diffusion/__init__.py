"""Distillation of diffusion models."""
