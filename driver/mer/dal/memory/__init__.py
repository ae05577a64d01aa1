"""The store in memory: the contract's reference, and what tests and throw-away runs use."""

from mer.dal.memory.store import MemoryStore

__all__ = ["MemoryStore"]
