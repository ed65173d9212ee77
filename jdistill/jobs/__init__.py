"""Networks that a run trains or finds: trainings as values, arms, teachers and what was chosen for them to see."""
