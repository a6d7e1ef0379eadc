"""The agent in the job: a program of its own, never imported by the gateway."""
