"""Scores in plain NumPy; no TensorFlow."""
