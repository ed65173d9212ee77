"""A teacher trained on all labels, and students that see few or all of them."""

from jdistill.data.subset import balanced_indices
from jdistill.schema import Count, validated
from jdistill.tasks import images
from jdistill.tasks.task import Request, Task


@validated("task")
def supervised(request: Request, *, student_size: Count | None = None, teacher_size: Count | None = None) -> Task:
  """Labelled images; every student seed draws its own class-balanced few of them.

  Args:
    request: which images.
    student_size: labelled examples per student; `None` for all of the training part.
    teacher_size: examples of the teacher; `None` for all of the training part.
  """
  found = images.read(request)
  labels = found.train.y
  teacher = found.train
  if teacher_size is not None:
    picked = balanced_indices(labels, teacher_size, found.num_classes, seed=request.seed, key="task.teacher_size")
    teacher = images.take(found.train, picked)
  count = student_size or len(labels)
  return Task(
    data=found.train,
    members=lambda seed: images.few(
      request, labels, student_size, found.num_classes, seed=seed, key="task.student_size"
    ),
    teacher=teacher,
    validation=found.validation,
    test=found.test,
    num_classes=found.num_classes,
    input_shape=found.train.x.shape[1:],
    notes=(
      f"teacher: {len(teacher.y)} training images; each student: {count} of {len(labels)}; choices on "
      f"{len(found.validation.y)} held-out ones; test: {len(found.test.y)}",
    ),
    **found.about,
  )
