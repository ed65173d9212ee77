"""What an experiment in knowledge distillation is about: who may learn from what, and how the result is judged.

A task is a value: the examples of teachers and students, those on which choices are made, those that are only looked
at in the end, and a score. `jdistill.catalog` knows them by name.
"""

from jdistill.tasks.task import Request, Task, fingerprint, take

__all__ = ["Request", "Task", "fingerprint", "take"]
