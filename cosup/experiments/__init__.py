"""Comparisons of systems: which pairs to train, how each retrieves, and what came of it, from one YAML file."""
