"""Use-cases over the registry: register, alias, resolve, place, retire. Each change appends its record last."""
