"""The album: pictures on disk, found by words, by example and by themselves."""
