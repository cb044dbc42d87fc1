from tests.conftest import LONG, ROOT


def test_the_files_that_start_first_are_there():
    assert LONG
    assert [name for name in LONG if not (ROOT / name).exists()] == []
