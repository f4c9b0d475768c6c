"""Training recipes that travel with tilth."""
