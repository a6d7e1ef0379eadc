"""The connector process and how others talk to it."""
