"""Stand-ins for what tests cannot have: each takes only what the real one's documentation allows."""
