"""The paper alone: its recipes, what they come to, and the runs that redo its evidence. Start at `run`."""
