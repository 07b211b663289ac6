"""Runtimes that run a model on a device: their common interface, its implementations, and the walk through a plan."""
