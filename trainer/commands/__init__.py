"""One module a command word, each a short story read from top to bottom: `run(options)`."""
