"""From a JobRequest to a JobScript; pure."""
