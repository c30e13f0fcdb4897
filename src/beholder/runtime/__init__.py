"""How a network is run."""
