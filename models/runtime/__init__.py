"""How a model runs: one narrow interface to a device, the runtimes behind it, and the walk through a plan."""
