"""What `import eggroll` shows is what it means to give, and all of it."""

import pydoc

import eggroll


def test_the_face_lists_its_names_and_no_others():
    assert dir(eggroll) == sorted(eggroll.__all__)
    assert all(hasattr(eggroll, name) for name in eggroll.__all__)


def test_help_shows_the_classes():
    page = pydoc.plain(pydoc.render_doc(eggroll))
    for name in ("EvolutionStrategy", "IntegerStrategy", "Generation", "Task"):
        assert f"class {name}(" in page


def test_whoever_imports_all_gets_the_face():
    scope = {}
    exec("from eggroll import *", scope)
    assert {*eggroll.__all__} <= {*scope}
