"""Text to token ids: the Hugging Face tokenizer, its twin inside the graph, sentence pairs."""
