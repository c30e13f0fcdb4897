"""Image input: find and read image files, normalize them to upright sRGB, preprocess them for a network."""
