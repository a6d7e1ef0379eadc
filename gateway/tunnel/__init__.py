"""From the hub host to the notebook, and the hub API back."""
