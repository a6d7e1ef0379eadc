"""``gateway doctor``: every station of the main path, tried against one cluster."""
