"""Trained heads for other tools: a sentence-transformers folder with its model card, and ONNX files."""
