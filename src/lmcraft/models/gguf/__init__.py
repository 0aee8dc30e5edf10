"""Models out of GGUF files: architectures, quantized tensors, loading."""
