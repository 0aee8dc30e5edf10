"""What is trained: each stage gives batches and a summed loss."""
