"""Rows to records: what makes records stale, chunks of rows, and the sinks that write shards."""
