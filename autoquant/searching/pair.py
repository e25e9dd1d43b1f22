"""A float model and one plan of it, built: what the debugging steps look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoquant.backends.protocol import Backend, Executable
from autoquant.backends.targets import load_target
from autoquant.core.backends import BY_TORCH
from autoquant.core.calls import show
from autoquant.core.equalisation import Equalisation
from autoquant.core.glance import few
from autoquant.core.os_errors import storage_errors
from autoquant.core.plan import Plan, equalised_weights, load_plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.sites import check_sites
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError, ModelError, PlanError
from autoquant.job import Job, Setup, SpaceRules
from autoquant.model.graph.captured import Capture
from autoquant.model.recipes import JobRecipe, load_subject
from autoquant.model.subject import Subject
from autoquant.results.forms import BUILD
from autoquant.searching.preparing.preparation import Preparation, prepare
from autoquant.searching.preparing.space import bind_space, widest_scheme
from autoquant.searching.seeding.seeds import MENDS, Seed, mend_uniform, scheme_of
from autoquant.searching.templates import Template


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A float model and a plan of it.

    Attributes:
        prepared: The float model, captured and calibrated, with its data.
        plan: What was built.
        executable: The converted model, and what each site really runs.
    """

    prepared: Preparation
    plan: Plan
    executable: Executable

    @property
    def backend(self) -> Backend:
        """Built it, and runs it."""
        return self.prepared.backend


def prepare_untimed(
    setup: Setup, subject: Subject, progress: Progress, plan: Plan | Path | str | None = None
) -> Preparation:
    """Prepare without timing anything: of what the backend leaves open it takes what works.

    Args:
        setup: Target, space, and how ranges are found.
        subject: Model, data and metric.
        progress: Shown the progress.
        plan: What will be built, as `find_plan` takes it: where it comes from a search that
            rescaled channels, so are those of the model.

    Raises:
        PlanError: The plan is of a model with rescaled channels, and its search is not there; or
            it cannot be read, or names other sites: before anything is calibrated.
    """
    settled = None if plan is None or isinstance(plan, Plan) else equalisation_of(str(plan))
    if settled:
        progress.note(f"channels are rescaled as in the search that {plan} is of")
    named = tuple(_named(plan))
    return prepare(setup, subject, progress, named=named, is_timed=False, equalisation=settled)


def _named(plan: Plan | Path | str | None) -> Iterator[Template]:
    """A plan that is given or can be read, with what errors call it; none for a scheme."""
    if isinstance(plan, Plan):
        yield Template("the plan", plan)
    elif plan is not None and str(plan) not in {scheme.value for scheme in Scheme}:
        yield Template(f"--plan {plan}", read_plan(str(plan)))


def equalisation_of(text: str) -> Equalisation | None:
    """How the search of a plan rescaled channels; None: not at all, or it is no search's.

    Args:
        text: A result folder, `folder:number`, or a file of a folder's `plans`.

    Raises:
        PlanError: It is a file that was taken out of its folder, whose search rescaled channels.
        StorageError: The operating system knows no such names.
    """
    folder, _, number = text.rpartition(":")
    with storage_errors(Path(text), "read"):
        path = Path(folder) if number.isdigit() and Path(folder).is_dir() else Path(text)
        is_file, is_folder = path.is_file(), path.is_dir()
    weights = ""
    if is_file:
        weights = equalised_weights(path)
        path = path.parent.parent
    elif not is_folder:
        return None
    build = BUILD.known(path)
    found = Equalisation() if build is None else build.equalisation
    if weights and found.weights != weights:
        raise PlanError(
            f"{text} is a plan of a model with rescaled channels, and its search is not beside it",
            hint="name the result folder and the candidate: --plan FOLDER:NUMBER",
        )
    return found or None


def needs_graph(captured: Capture, command: str) -> None:
    """Refuse a model of which there is no graph."""
    if captured.how == "modules":
        raise ModelError(
            f"{command} looks at the tensors of a graph, and the model was captured module by "
            "module",
            hint="badcases and sensitivity compare its outputs; `autoquant check` says why",
        )


def prepare_job(job: Job, progress: Progress, plan: str | None = None) -> Preparation:
    """Load a job's model and data, and prepare without timing engines."""
    subject = load_subject(JobRecipe(job), progress)
    return prepare_untimed(job, subject, progress, plan)


def build_pair(prepared: Preparation, given: Plan | Path | str, progress: Progress) -> Pair:
    """Build the plan that a user means, as `find_plan` takes it, beside its float model.

    Raises:
        BackendError: The engine refuses the plan.
    """
    plan = find_plan(given, prepared, progress)
    with progress.stage("building the plan", None):
        return Pair(prepared, plan, prepared.evaluator.build(plan))


def find_plan(given: Plan | Path | str, prepared: Preparation, progress: Progress) -> Plan:
    """The plan that a user means.

    Args:
        given: A plan; a scheme's name (`uniform_plan`), a file that `Plan.save` wrote, a result
            folder (its best member), or `folder:number`, one of its candidates.
        prepared: The model that the plan must fit.
        progress: Told what a scheme's name leaves out because the engine refused it.
    """
    if isinstance(given, Plan):
        plan, name = given, "the plan"
    elif not isinstance(given, (str, Path)):
        raise PlanError(
            f"{show(given)} is no plan", hint="give a scheme's name, a file or a result folder"
        )
    else:
        plan, name = _plan_of(str(given), prepared, progress), f"--plan {given}"
    check_sites(name, dict.fromkeys(plan.schemes), prepared.captured.sites)
    return plan


def uniform_plan(scheme: Scheme, prepared: Preparation, progress: Progress) -> Plan:
    """One scheme wherever the engine runs or emulates it, whatever the job's space.

    Elsewhere fp32; on a target without it the first of fp16, bf16 and int16 that all ops run. What
    an engine replaces beside others, though it runs it alone, is found by building the plan.
    """
    captured, build = prepared.captured, prepared.settings.build
    support = partial(load_target(build.backend).site_support, build)
    fallback = widest_scheme(captured.sites, support)
    bound = bind_space(
        SpaceRules(schemes=(scheme, fallback), fallback=fallback),
        captured.sites,
        captured.agreements,
        support,
        real_kernels_only=False,
    )
    plan = bound.space.uniform(scheme)
    if scheme.value not in plan.counts():
        raise PlanError(
            f"{prepared.engine or build.backend} runs {scheme.value} at no op of this model",
            hint="`autoquant backends` lists what runs here",
        )
    if build.backend in BY_TORCH:  # its kernels are chosen here, and none is replaced
        return plan
    seed = Seed(plan, f"seed:uniform-{scheme.value}")
    return _without_refused(seed, bound.space, prepared, progress)


def _without_refused(
    seed: Seed, space: SearchSpace, prepared: Preparation, progress: Progress, most: int = MENDS
) -> Plan:
    """A uniform plan without what the engine refuses of it, `most` times, as a search mends it."""
    try:
        prepared.evaluator.build(seed.plan)
    except BackendError as error:
        mended = mend_uniform(space, seed, error.sites)
        if mended is None or not most:
            return seed.plan
        left = [site for site, kept in mended.plan.assignment if kept is not seed.plan[site]]
        progress.note(f"all {scheme_of(seed.origin)} is without {few(left)}: {error.message}")
        return _without_refused(mended, space, prepared, progress, most - 1)
    return seed.plan


def _plan_of(text: str, prepared: Preparation, progress: Progress) -> Plan:
    schemes = {scheme.value: scheme for scheme in Scheme}
    if text in schemes:
        return uniform_plan(schemes[text], prepared, progress)
    return read_plan(text)


def read_plan(text: str) -> Plan:
    """Read a plan from a file, a result folder (its best member) or `folder:number`."""
    from autoquant.searching.load import load_result  # half a second of pandas and plotly

    folder, _, number = text.rpartition(":")
    if folder and number.isdigit() and Path(folder).is_dir():
        return load_result(folder).candidate(int(number)).plan
    if Path(text).is_dir():
        return load_result(text).best().plan
    if not Path(text).exists():
        raise PlanError(
            f"--plan {text}: no such scheme, file or result folder",
            hint=f"schemes: {', '.join(scheme.value for scheme in Scheme)}",
        )
    return load_plan(text)


def needs_torch(setup: Setup, command: str) -> None:
    """Refuse a setup whose plans are not built by torch, before anything is loaded."""
    if setup.backend.name not in BY_TORCH:
        raise BackendError(
            f"{command} looks into the graph that torch runs, and backend.name is "
            f"{setup.backend.name}",
            hint="--set backend=auto shows the same plan on torch's engines",
        )
