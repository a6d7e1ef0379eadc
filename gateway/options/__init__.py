"""What a user may ask for, here and now."""
