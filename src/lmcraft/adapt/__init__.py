"""What changes a finished model from outside: trained parts beside its modules, frozen and quantized weights."""
