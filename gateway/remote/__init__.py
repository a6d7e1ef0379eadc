"""What runs inside the job: standard library only, imports nothing of ours."""
