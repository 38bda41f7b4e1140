"""The encoder, its packed forward pass, heads, losses, optimizer and schedules."""
