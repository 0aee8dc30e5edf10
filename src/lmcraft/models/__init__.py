"""The architectures, behind one protocol."""
