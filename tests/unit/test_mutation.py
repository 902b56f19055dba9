"""Survivors of mutation tests are explained by lines that the code has."""

import pytest

from tests.conftest import REPOSITORY
from tests.reliability.mutation import EXPLAINED, PACKAGE


@pytest.mark.parametrize(("file", "text"), sorted({(file, text) for file, text, _ in EXPLAINED}))
def test_explained_lines_are_there(file: str, text: str) -> None:
    path = REPOSITORY / "bpf" / file if file.endswith(".bpf.c") else PACKAGE / file
    assert text in path.read_text()
