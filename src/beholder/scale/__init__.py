"""Embedding, indexing and searching collections of many millions of pictures, on one machine or a cluster."""
