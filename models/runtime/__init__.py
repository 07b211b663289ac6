"""Where networks run: one narrow interface and the runtimes behind it."""
