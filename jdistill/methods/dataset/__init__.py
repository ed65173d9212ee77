"""Data-set distillation."""
