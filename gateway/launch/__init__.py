"""The life of a launch: states, store, and the main path."""
