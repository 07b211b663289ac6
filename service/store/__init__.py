"""The store: jobs, remembered answers and latency samples. It is in this process, or in Redis for all replicas."""
