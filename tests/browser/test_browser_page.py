"""The page in a real browser: every flow, without console errors, and accessible."""
