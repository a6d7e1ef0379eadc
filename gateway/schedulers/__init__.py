"""Batch schedulers behind one contract; they know a transport, never SSH."""
