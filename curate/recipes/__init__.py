"""The recipes that travel with the package, one YAML file each."""
