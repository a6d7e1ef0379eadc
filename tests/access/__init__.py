"""What another user of the cluster can see or reach while alice's notebook runs."""
