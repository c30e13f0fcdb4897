"""Sentences come in: tokenizers as the networks were trained with, prompt templates, files of labels."""
