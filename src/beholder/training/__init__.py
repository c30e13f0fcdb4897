"""Losses, data and loops."""
