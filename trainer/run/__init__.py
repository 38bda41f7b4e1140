"""What the commands share about one run: its config, tokenizer, model, kernels, batches, outputs and training loop."""
