"""What the `glot` command offers: each module parses, calls one function of a room, and prints. No logic."""
