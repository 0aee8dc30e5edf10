"""From files to batches: reading, recognising, cleaning, packing, loading."""
