"""What the far side promises of its source: Python 3.9's grammar, and nothing beyond the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mer_worker

FOLDER = Path(mer_worker.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))
OPTIONAL = {"numpy", "ml_dtypes", "torch"}
"""Imported within a function, only when somebody asks for arrays of them."""


@pytest.mark.parametrize("source", SOURCES, ids=[str(path.relative_to(FOLDER)) for path in SOURCES])
def test_a_module_is_python_3_9(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 9))
    deferred = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    assert deferred or not any(map(_is_annotated, ast.walk(tree))), "annotations are not to be evaluated"


def _is_annotated(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) or any(getattr(node, name, None) for name in ("returns", "annotation"))


@pytest.mark.parametrize("source", SOURCES, ids=[str(path.relative_to(FOLDER)) for path in SOURCES])
def test_a_module_imports_the_standard_library_only(source):
    tree = ast.parse(source.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in names} - {"mer_worker"}
    assert roots <= sys.stdlib_module_names | OPTIONAL


def test_the_worker_starts_with_few_modules():
    heavy = {
        "typing",
        "dataclasses",
        "inspect",
        "logging",
        "pathlib",
        "subprocess",
        "traceback",
        "ctypes",
        "numpy",
        "asyncio",
    }
    program = f"import mer_worker.loop, sys; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(FOLDER.parent)!r}); {program}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == []
