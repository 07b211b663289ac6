"""The engine: a loop of schedule -> execute -> deliver over rows, one row an image."""
