"""What outlives a request: jobs, remembered answers, latency samples. In this process, or in Redis for all replicas."""
