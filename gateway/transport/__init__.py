"""Run an argv as an account on a login node; knows no scheduler."""
