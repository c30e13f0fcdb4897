"""The networks: tensors in, tensors out. No file access, no downloads, no printing."""
