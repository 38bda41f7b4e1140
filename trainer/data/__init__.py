"""Rows to batches: sources, records with their manifest, packing, the tf.data pipeline."""
