"""What a cluster is, as admins write it."""
