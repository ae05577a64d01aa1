"""carton.toml: what a package says of itself, read into a VersionSpec and written from one.

The file is Carton's (specification version 1). What Carton has no words for stands under `[mer]`, which its readers
ignore: dtypes that it lacks, what the handler gets its arrays as, the program of a `command` model, limits.
"""

from mer.core.carton.reading import read
from mer.core.carton.rules import CARTON_TOML, MAX_BYTES, spec_faults
from mer.core.carton.writing import generate

__all__ = ["CARTON_TOML", "MAX_BYTES", "generate", "read", "spec_faults"]
