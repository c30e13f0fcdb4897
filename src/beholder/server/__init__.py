"""The server: an HTTP interface and a page over the same models as the library."""
