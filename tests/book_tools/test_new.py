"""A post that is laid out has all its files, runs, and is not green before it is filled in."""

import json

import pytest
import yaml

from book_tools import form, new, notebooks
from book_tools.chapter import PARTS, ROOT, Chapter, contents

NAME = "losses/soft_rank"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A copy of what a new post is listed in."""
    for name in ("_toc.yml", "pages/api.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(new, "ROOT", tmp_path)
    return tmp_path


def test_all_files_are_laid_out_and_listed(house):
    before = yaml.safe_load((house / "_toc.yml").read_text(encoding="utf-8"))
    assert new.make(NAME) == 0
    files = [*new.files_of(NAME), "kexue/losses/__init__.py", "benchmarks/losses/__init__.py"]
    assert all((house / file).is_file() for file in files)
    after = yaml.safe_load((house / "_toc.yml").read_text(encoding="utf-8"))
    added = [part for part in after["parts"] if part not in before["parts"]]
    assert added == [{"caption": "Losses", "numbered": 1, "chapters": [{"file": f"chapters/{NAME}"}]}]
    captions = [part["caption"].lower() for part in after["parts"] if part["caption"].lower() in PARTS]
    assert captions == sorted(captions, key=PARTS.index)
    assert "   kexue.losses\n" in (house / "pages" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["attention/gau", "probability/gumbel", "functions/softsign", "optimization/ema"])
def test_every_part_finds_its_place(house, name):
    assert new.make(name) == 0
    toc = yaml.safe_load((house / "_toc.yml").read_text(encoding="utf-8"))
    files = [each["file"].removeprefix("chapters/") for part in toc["parts"] for each in part["chapters"]]
    listed = [file for file in files if not file.startswith("pages/")]
    assert listed == sorted(
        [*contents(), name], key=lambda file: (PARTS.index(file.split("/")[0]), (*contents(), name).index(file))
    )


def test_nothing_is_overwritten_and_bad_names_are_refused(house, capsys):
    assert new.make(NAME) == 0
    (house / f"kexue/{NAME}.py").write_text("mine", encoding="utf-8")
    assert new.make(NAME) == 2 and "there already" in capsys.readouterr().err
    assert (house / f"kexue/{NAME}.py").read_text(encoding="utf-8") == "mine"
    for bad in ("", "losses", "nonsense/slug", "losses/Big", "losses/a-b", "losses/a/b"):
        assert new.make(bad) == 2 and "the part is one of" in capsys.readouterr().err


def test_what_is_left_to_be_filled_in_is_named(house):
    new.make(NAME)
    left = "\n".join(new.to_fill_in(NAME))
    for place in (
        "ipynb, cell 0: FILL IN: title",
        "ipynb, cell 5: FILL IN: what the figure",
        "soft_rank.py: FILL IN: what this module",
    ):
        assert place in left
    assert all(
        any(line.startswith(path.as_posix()) for line in left.splitlines())
        for path in new.files_of(NAME)
        if "calls" not in path.name
    )
    (house / f"benchmarks/{NAME}.py").unlink()
    assert f"benchmarks/{NAME}.py is missing" in new.to_fill_in(NAME)


@pytest.mark.parametrize("name", contents())
def test_nothing_is_left_to_be_filled_in(name):
    assert not new.to_fill_in(name), "\n".join(new.to_fill_in(name))


def test_the_chapter_runs_and_has_the_form(house, monkeypatch):
    new.make(NAME)
    monkeypatch.setenv("PYTHONPATH", f"{house}:{ROOT}")
    path = house / f"chapters/{NAME}.ipynb"
    text = path.read_text(encoding="utf-8").replace("kexue.losses.soft_rank import doubled", "operator import neg as doubled")
    path.write_text(text.replace("2 * x  #", "-x  #"), encoding="utf-8")  # the module is not installed
    notebooks.execute(path)
    chapter = Chapter(NAME, json.loads(path.read_text(encoding="utf-8")))
    found = [fault for check in form.CHECKS for fault in check(chapter)]
    assert not found, "\n".join(found)
