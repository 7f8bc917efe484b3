"""The control database: schema, engine, statements, revisions."""
