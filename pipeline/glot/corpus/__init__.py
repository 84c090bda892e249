"""The first room: the task table and everything texts and labels are read from. Start at `load`."""
