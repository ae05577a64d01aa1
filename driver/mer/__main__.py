"""The composition root: settings → store, hosts → Mer → a face; the only module that knows every layer."""
