"""What a run needs around the model: devices, randomness, checkpoints, logs, faults. Nothing here knows BERT."""
