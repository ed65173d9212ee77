"""Distillation of language models: recipes for tasks of token rows, which `student_method` trains like all others."""
