"""The model-execution abstraction layer: hosts, streams, sessions, the pool of workers."""
