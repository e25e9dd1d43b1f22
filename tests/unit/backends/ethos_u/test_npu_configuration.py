"""Names of accelerators, and the systems that they are put in."""

from __future__ import annotations

import pytest

pytest.importorskip("ethosu")

from autoquant.backends.litert.ethos_u.configuration import accelerators, find_configuration
from autoquant.errors import BackendError


@pytest.mark.parametrize("name", accelerators())
def test_every_accelerator_has_a_default_system(name: str) -> None:
    found = find_configuration(name)
    assert found.accelerator == name
    assert found.system.startswith(f"Ethos_{name.split('-')[1].upper()}")


def test_no_name_is_the_smaller_ethos_u55() -> None:
    assert find_configuration("") == find_configuration("ethos-u55-128")


def test_system_and_memory_mode_can_be_chosen() -> None:
    found = find_configuration("ethos-u55-64/Ethos_U55_Deep_Embedded/Sram_Only")
    assert str(found) == "ethos-u55-64, Ethos_U55_Deep_Embedded, Sram_Only"
    assert found.ms(2e5) == 1.0  # 200 MHz


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("ethos-u55", "ethos-u55-128"),
        ("Ethos-U55-128", "ethos-u85-2048"),
        ("ethos-u55-128/Ethos_U85_SYS_Flash_Low", "Ethos_U55_Deep_Embedded"),
        ("ethos-u65-256/Ethos_U65_Embedded/Sram", "Sram_Only"),
        ("ethos-u55-128/Ethos_U55_Deep_Embedded/Dedicated_Sram", "Shared_Sram"),
        ("ethos-u55-128/a/b/c", "ACCELERATOR/SYSTEM_CONFIG/MEMORY_MODE"),
    ],
    ids=["no size", "capitals", "another's system", "memory mode", "do not fit", "too long"],
)
def test_a_wrong_name_is_told_with_the_right_ones(name: str, right: str) -> None:
    with pytest.raises(BackendError, match=r"backend\.accelerator") as caught:
        find_configuration(name)
    assert right in str(caught.value)
