"""Grid Engine: commands, parsers and states (pure), and the adapter over them."""
