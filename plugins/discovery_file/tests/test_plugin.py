"""The registration of file discovery."""

from typing import Any

import attrs
import pytest
from meshless_discovery_file.discovery import FileDiscovery
from meshless_discovery_file.plugin import Options, meshless_register_discovery


def test_it_makes_a_file_discovery_of_its_options() -> None:
    spec = meshless_register_discovery()
    assert spec.api == 1
    assert isinstance(spec.create(spec.options(paths=("x.yaml",))), FileDiscovery)


def test_every_option_has_a_default_and_says_what_it_means() -> None:
    Options()
    assert all(field.metadata["doc"] for field in attrs.fields(Options))


@pytest.mark.parametrize("wrong", [{"paths": ()}, {"nodes": ()}, {"settle": -1.0}])
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        attrs.evolve(Options(), **wrong)
