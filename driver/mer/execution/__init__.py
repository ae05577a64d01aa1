"""The invocation pipeline: resolve, validate, record, ensure a worker, run, record."""
