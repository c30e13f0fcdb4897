"""What people do with the networks."""
