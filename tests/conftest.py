"""Property tests draw the same examples everywhere: 50 each, and 10,000 with ``make properties``. ``--post part/slug``: of one post."""

import os

from hypothesis import settings

from book_tools.system import concerns

settings.register_profile("kexue", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("release", settings.get_profile("kexue"), max_examples=10_000)
settings.load_profile(os.environ.get("KEXUE_PROPERTIES", "kexue"))


def pytest_addoption(parser):
    parser.addoption("--post", metavar="part/slug", help="of the tests over all posts only those that concern this one")


def pytest_collection_modifyitems(config, items):
    post = config.getoption("--post")
    if post:
        own = f"test_{post.rpartition('/')[2]}.py"
        chosen = [item for item in items if item.path.name == own or concerns(item.nodeid, post)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
