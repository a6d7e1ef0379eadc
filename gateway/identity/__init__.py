"""From a signed-in person to a login on one cluster."""
