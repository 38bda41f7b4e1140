"""The export: signatures, warm-up requests, labels, and the check that the export equals the model."""
