"""The far side's modules form no circle, imports for types and within functions among them: each can be read after others."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import mer_worker

FOLDER = Path(mer_worker.__file__).parent


def name_of(file: Path) -> str:
    parts = file.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_imports_what_imports_it() -> None:
    files = {name_of(file): file for file in FOLDER.rglob("*.py")}
    imports: dict[str, set[str]] = {}
    for name, file in files.items():
        found = imports[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = (f"{node.module}.{alias.name}" for alias in node.names)
                found.update(one if one in files else node.module for one in whole)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
        found &= files.keys() - {name}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names them
