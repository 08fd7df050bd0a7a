"""Imports the user's code: a module by name, or a file by path."""

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from .errors import UserError, reason, suggest


def import_source(source: str, what: str, error: type[UserError] = UserError) -> ModuleType:
    """Import `package.module`, or `path/to/file.py`, absolute or relative to the working directory.

    The working directory, or the folder of the file, is appended to `sys.path`, so that the module can import its
    neighbours. A file is executed again at each call.

    Args:
        source: the module or file.
        what: what it is for; messages begin with it.
        error: class of the errors to raise.

    Raises:
        UserError: the file does not exist, or the import fails.
    """
    if source.endswith(".py") or "/" in source or os.sep in source:
        return _import_file(source, what, error)
    _make_importable(Path.cwd())
    try:
        return importlib.import_module(source)
    except (Exception, SystemExit) as problem:
        raise error(_failed(what, problem)) from problem


def _import_file(source: str, what: str, error: type[UserError]) -> ModuleType:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        near = suggest(path.name, sorted(os.listdir(path.parent))) if path.parent.is_dir() else ""
        raise error(f"{what}: there is no file {path}.{near} Check the path.")
    # A unique name: the file may have the name of an installed module or of another file.
    name = f"_neuralese_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise error(f"{what}: {path} is not a Python file. Its name must end with .py.")
    module = importlib.util.module_from_spec(module_spec)
    _make_importable(path.parent)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        del sys.modules[name]
        raise error(_failed(what, problem)) from problem
    return module


def _failed(what: str, problem: BaseException) -> str:
    return (
        f"{what} could not be imported: {reason(problem)}. Make its module importable "
        f"(python -c 'import ...' shows the whole traceback), or give the path of a file."
    )


def _make_importable(folder: Path) -> None:
    # At the end: a folder of the user must not hide an installed package.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
