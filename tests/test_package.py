"""The package as a whole: one post, one slug; light imports; examples in docstrings run."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import kexue
from book_tools.chapter import PARTS, ROOT, contents

MODULES = sorted(module.name for module in pkgutil.walk_packages(kexue.__path__, "kexue."))
POSTS = sorted(
    name.removeprefix("kexue.").replace(".", "/")
    for name in MODULES
    if name.count(".") == 2 and name.split(".")[1] in PARTS and not name.split(".")[2].startswith("_")
)


def loaded_by(statement, after="pass"):
    """The modules that ``statement`` loads in a fresh interpreter which has run ``after``."""
    code = f"import sys; {after}; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def packages(modules):
    return {name.split(".")[0] for name in modules} - sys.stdlib_module_names


def test_contents_chapters_modules_and_tests_are_the_same_list():
    listed = contents()
    assert sorted(listed) == POSTS
    assert sorted(str(p.relative_to(ROOT / "chapters").with_suffix("")) for p in (ROOT / "chapters").rglob("*.ipynb")) == POSTS
    in_parts = [p for p in (ROOT / "tests").glob("*/test_*.py") if p.parent.name in PARTS]
    assert sorted(f"{p.parent.name}/{p.stem.removeprefix('test_')}" for p in in_parts) == POSTS


def test_every_folder_is_a_part_or_known():
    known = {"kexue": {"lab"}, "tests": {"lab", "book_tools", "trials"}, "chapters": set()}
    for top, others in known.items():
        folders = {p.parent.name for p in (ROOT / top).glob("*/*") if p.suffix in (".py", ".ipynb")} - {"__pycache__"}
        assert folders <= set(PARTS) | others
    assert all((ROOT / "kexue" / name.split("/")[0] / "__init__.py").is_file() for name in contents())


def test_parts_stand_in_book_order():
    order = [PARTS.index(name.split("/")[0]) for name in contents()]
    assert order == sorted(order)


def test_the_reference_lists_every_part():
    listed = set((ROOT / "pages" / "api.md").read_text(encoding="utf-8").split())
    assert {f"kexue.{name.split('/')[0]}" for name in contents()} | {"kexue.lab"} <= listed


def test_importing_the_package_loads_nothing_heavy():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import kexue"], capture_output=True, text=True, check=True
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in result.stderr.splitlines() if "|" in line}
    assert "kexue" in imported
    assert not {name.split(".")[0] for name in imported} & {"torch", "numpy", "scipy", "matplotlib", "sklearn"}


def test_dir_and_help_list_parts_and_modules_without_loading_torch():
    code = (
        "import sys, pydoc, kexue; text = pydoc.render_doc(kexue); print(*dir(kexue)); print(*dir(kexue.attention));"
        "print('kexue.attention: position_encodings, rope' in text, 'torch' in sys.modules); print(kexue.attention.rope.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert set(out[0].split()) >= {name.split("/")[0] for name in POSTS} | {"lab", "__version__"}
    assert set(out[1].split()) >= {name.split("/")[1] for name in POSTS if name.startswith("attention/")}
    assert out[2:] == ["True False", "kexue.attention.rope"]
    with pytest.raises(AttributeError, match=r"^module 'kexue' has no attribute 'nonsense'$"):
        kexue.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no attribute '_hidden'"):
        kexue._hidden  # noqa: B018


@pytest.mark.parametrize("post", POSTS)
def test_a_call_of_a_module_has_a_type(post):
    """``__call__`` of PyTorch's modules is Any to a type checker; each class with a forward pass says what its own is."""
    tree = ast.parse((ROOT / "kexue" / f"{post}.py").read_text(encoding="utf-8"))
    for one in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        goes_forward = any(isinstance(part, ast.FunctionDef) and part.name == "forward" for part in one.body)
        is_function = any(isinstance(base, ast.Attribute) and base.attr == "Function" for base in one.bases)
        assert not goes_forward or is_function or "__call__ = forward" in ast.unparse(one), one.name


def test_the_lab_loads_neither_torch_nor_scikit_learn_nor_matplotlib():
    assert packages(loaded_by("from kexue.lab import use_style, verify, digits, prose, fit")) == {"kexue", "numpy"}


@pytest.mark.parametrize("post", POSTS)
def test_a_module_loads_numpy_or_torch_and_nothing_else(post):
    source = (ROOT / "kexue" / f"{post}.py").read_text(encoding="utf-8")
    backend = "import numpy, torch" if "import torch" in source or "from torch" in source else "import numpy"
    loaded = loaded_by(f"import kexue.{post.replace('/', '.')}", after=backend)
    assert packages(loaded) <= {"kexue", "numpy"} | ({"torch"} if "torch" in backend else set())
    assert not any(name.startswith("kexue.lab") for name in loaded)


@pytest.mark.parametrize("post", POSTS)
def test_a_module_lists_its_public_names(post):
    module = importlib.import_module(f"kexue.{post.replace('/', '.')}")
    own = {
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    assert own == set(module.__all__)
    assert all(getattr(module, name).__doc__ for name in module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0 or name.removeprefix("kexue.").replace(".", "/") not in POSTS
