"""From a table to a decision, for `glot train`: a thin join of extraction, training or search, and scores."""
