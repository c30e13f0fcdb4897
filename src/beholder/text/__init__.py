"""Text comes in: tokenizers, prompt templates, label files, JSON lines."""
