"""What uses a trained head: models and estimators in Python, files in and out, explanations. Start at `model`."""
