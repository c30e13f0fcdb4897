"""Pictures come in: read from anywhere, brought to upright sRGB, prepared for a network, and back."""
