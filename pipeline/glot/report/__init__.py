"""The last room: finished runs become tables and figures beside the paper's numbers. Start at `write`."""
