"""The whole gateway on a real cluster: real processes, a real browser or a person without one."""
