"""A run behind HTTP: its labels and vectors for whoever asks, many requests in one forward (`glot serve`)."""
