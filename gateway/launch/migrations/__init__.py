"""The history of the connector's database schema, applied at start-up."""
