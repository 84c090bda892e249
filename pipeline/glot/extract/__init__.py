"""Stage one: the frozen backbone, the plan of distinct texts, and the run that forwards them. Start at `run`."""
