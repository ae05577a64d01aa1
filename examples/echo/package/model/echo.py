"""Gives its inputs back: the smallest model there is, and what the call path is measured with."""


def load():
    """Return the handler, which takes a dict of inputs and returns a dict of outputs."""
    return lambda inputs: inputs
