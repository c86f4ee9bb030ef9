"""The registration of the directory bus."""

import attrs
import pytest

from meshless_core.bus import DirectoryBus
from meshless_core.bus.directory_plugin import Options, meshless_register_bus


def test_it_makes_a_directory_bus_of_its_options() -> None:
    spec = meshless_register_bus()
    bus = spec.create(spec.options(path="/nowhere/bus"))
    assert isinstance(bus, DirectoryBus)
    assert bus.path == "/nowhere/bus"


def test_every_option_has_a_default_and_says_what_it_means() -> None:
    Options()
    assert all(field.metadata["doc"] for field in attrs.fields(Options))


def test_a_rescan_that_would_spin_is_refused() -> None:
    with pytest.raises(ValueError, match="rescan"):
        Options(rescan=0.0)
