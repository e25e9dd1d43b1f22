"""Which NPU, in which system: a job's word for it, turned into what Vela's compiler is told."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from ethosu.vela.architecture_features import Accelerator, ArchitectureFeatures
from ethosu.vela.errors import VelaError

from autoquant.core.build import BuildSettings
from autoquant.errors import BackendError

DEFAULT_ACCELERATOR = "ethos-u55-128"

_SHAPE = "ACCELERATOR, ACCELERATOR/SYSTEM_CONFIG or ACCELERATOR/SYSTEM_CONFIG/MEMORY_MODE"

_OPTIONS = """
[compiler]
enable_db=true
output_format=TFLite
cop_format=COP1

[scheduler]
optimize=Performance
arena_size_limit={arena}
disable_feature=
cpu_tensor_alignment=16
tensor_allocator=HillClimb

[graph]
softmax_int16_neg_exp_range=10.0
"""
"""What Vela's command line passes on by default, with the table of cycles by op switched on."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """An NPU in a system.

    Attributes:
        accelerator: `ethos-u55-128`: family and multiply-accumulates per cycle.
        system: Section `System_Config` of Vela's configuration file: clock and memories.
        memory: Section `Memory_Mode`: what lies in which memory.
        clock_hz: Cycles per second.
        family: `EthosU55`, as the compiler calls it.
        description: Text that describes architecture and system to the compiler.
        options: Text of the compiler's options.
    """

    accelerator: str
    system: str
    memory: str
    clock_hz: float
    family: str
    description: str
    options: str

    def __str__(self) -> str:
        return f"{self.accelerator}, {self.system}, {self.memory}"

    def ms(self, cycles: float) -> float:
        """How long so many cycles take."""
        return 1e3 * cycles / self.clock_hz


def accelerators() -> tuple[str, ...]:
    """Names of the accelerators that this version of Vela knows."""
    return tuple(Accelerator.member_list())


def configuration_of(settings: BuildSettings) -> Configuration:
    """Read the configuration that settings name.

    Raises:
        BackendError: A part is not one of Vela's names, or the parts do not fit together.
    """
    return find_configuration(settings.options.get("accelerator") or "")


def find_configuration(name: str) -> Configuration:
    """Read `ACCELERATOR[/SYSTEM_CONFIG[/MEMORY_MODE]]`.

    What is left out is Vela's own default for the accelerator; an empty name is
    `DEFAULT_ACCELERATOR`.
    """
    parts = (name or DEFAULT_ACCELERATOR).split("/")
    accelerator, system, memory = (*parts, "", "")[:3]
    if accelerator not in accelerators() or len(parts) > 3:
        raise BackendError(
            f"backend.accelerator: {name!r} is not {_SHAPE}",
            hint=f"accelerators are {', '.join(accelerators())}",
        )
    defaults = _features(accelerator)
    _check("system config", system, _sections(defaults, f"System_Config.{_prefix(accelerator)}"))
    _check("memory mode", memory, _sections(defaults, "Memory_Mode."))
    if not (system or memory):
        return _configuration(accelerator, defaults)
    chosen = (system or defaults.system_config, memory or defaults.memory_mode)
    try:
        return _configuration(accelerator, _features(accelerator, *chosen))
    except VelaError as error:
        raise BackendError(
            f"backend.accelerator: Vela refuses {accelerator} with {' and '.join(chosen)}: {error}",
            hint=f"Vela's own choice is {defaults.system_config}/{defaults.memory_mode}",
        ) from error


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name and name not in known:
        raise BackendError(
            f"backend.accelerator: there is no {what} {name!r} for this accelerator",
            hint=f"one of {', '.join(known)}",
        )


def _prefix(accelerator: str) -> str:
    """What the system configurations of a family begin with: `Ethos_U55_`."""
    return f"{accelerator.rpartition('-')[0].title().replace('-', '_')}_"


def _sections(features: ArchitectureFeatures, prefix: str) -> tuple[str, ...]:
    found = (name for name in features.vela_config.sections() if name.startswith(prefix))
    return tuple(name.partition(".")[2] for name in found)


def _features(
    accelerator: str, system: str | None = None, memory: str | None = None
) -> ArchitectureFeatures:
    """Vela's own reading of a configuration; without system and memory, of its defaults."""
    is_default = system is None
    with redirect_stdout(StringIO()):  # it warns of its own defaults
        return ArchitectureFeatures(
            vela_config_files=None if is_default else _features(accelerator).vela_config_files,
            accelerator_config=accelerator,
            system_config=system or ArchitectureFeatures.DEFAULT_CONFIG,
            memory_mode=memory or ArchitectureFeatures.DEFAULT_CONFIG,
            max_blockdep=ArchitectureFeatures.MAX_BLOCKDEP,
            verbose_config=False,
            arena_cache_size=None,
        )


def _configuration(accelerator: str, features: ArchitectureFeatures) -> Configuration:
    files = (Path(name).read_text(encoding="utf-8") for name in features.vela_config_files)
    head = (
        f"[architecture]\nmacs={features.num_macs_per_cycle}\ncores={features.ncores}\n"
        f"[vela]\nsystem_config_name={features.system_config}\n"
        f"memory_mode_name={features.memory_mode}\n"
    )
    return Configuration(
        accelerator=accelerator,
        system=features.system_config,
        memory=features.memory_mode,
        clock_hz=float(features.core_clock),
        family=accelerator.rpartition("-")[0].title().replace("-", ""),
        description="".join((head, *files)),
        options=_OPTIONS.format(arena=features.arena_cache_size),
    )
