"""Jobs: generations too large for one request. What they make, what callers do with them, and who makes their images."""
