"""Where networks come from and go to: folders, the hub, the default model; one table of names per foreign format."""
