"""The subject: one model with its data and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from autoquant.core.equalisation import Equalisation, Equalise
from autoquant.errors import ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.calling import Calling, OnCopies
from autoquant.model.data.data_set import StreamedBatches, shapes_of
from autoquant.model.data.number_outputs import without_sources
from autoquant.model.data.outputs import OutputWeights
from autoquant.model.data.reader import DataReader
from autoquant.model.data.readings import DataForm
from autoquant.model.data.scoring import Metric
from autoquant.model.equalisation.rewrite import rescaled
from autoquant.model.graph.capture import capture
from autoquant.model.graph.captured import BY_MODULES, Capture
from autoquant.model.graph.export_capture import fixed_sizes
from autoquant.model.graph.faithfulness import (
    Difference,
    batches_to_compare,
    find_difference,
    is_same_in_float64,
    places_to_compare,
)
from autoquant.model.numerics.float64_run import model_in_float64


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is searched.

    Attributes:
        model: The float model, in eval mode; where it returns whole numbers, one that hands out
            what they are computed from too (`Sourced`).
        calibration: Batches to calibrate on.
        evaluation: Batches to compare candidates on.
        heldout: Batches that the search never sees; None where there are none.
        functions: What scores outputs against targets, by the name of its measurement: the metric
            (`accuracy`, higher is better), and perhaps a `loss`. Empty where outputs alone are
            compared.
        calling: How the model is called with the tensors of a batch.
        dynamic: By tensor of a batch, the axes whose size may change.
        leaf_modules: Paths of modules that capture must not look into.
        capture: What finds its sites: `auto`, `export`, `modules`.
        form: Of the user's data.
        outputs: Which outputs guide the search.
        equalise: Whether its channels are rescaled before plans are built.
        given: The model as its user gave it, where `model` has rescaled channels, is a copy or
            hands out more; else None.
        writes_inputs: Whether the model's forward changes its inputs: it is given copies.
        notices: What was done to the user's model, in one line each.
    """

    model: nn.Module
    calibration: Sequence[Batch]
    evaluation: Sequence[Batch]
    heldout: Sequence[Batch] | None
    functions: Mapping[str, Metric]
    calling: Calling
    dynamic: tuple[tuple[int, ...], ...]
    leaf_modules: tuple[str, ...] = ()
    capture: str = "auto"
    form: DataForm = field(default_factory=DataForm)
    outputs: OutputWeights = field(default_factory=OutputWeights)
    equalise: Equalise = Equalise.NEVER
    given: nn.Module | None = None
    writes_inputs: bool = False
    notices: tuple[str, ...] = ()

    @property
    def metric(self) -> Metric:
        """The user's metric.

        Raises:
            KeyError: Nothing is scored.
        """
        return self.functions["accuracy"]

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the first calibration batch."""
        return self.calibration[0].inputs

    @property
    def telling(self) -> tuple[Batch, ...]:
        """Two batches on which computations are compared: of both data sets, first and last."""
        other = self.evaluation or self.calibration
        return self.calibration[0], other[0] if isinstance(other, StreamedBatches) else other[-1]

    def compared(self, captured: Capture) -> tuple[Batch, ...]:
        """Batches on which what is built is compared with the model.

        Those that tell, one with fewer samples, those of the smallest and the largest samples, and
        of each kind of sizes that the graph was not made for.
        """
        chosen = list(batches_to_compare(captured, self.telling))
        known = {shapes_of([batch])[0] for batch in chosen}
        for batches in (self.calibration, self.evaluation, self.heldout or ()):
            shapes = shapes_of(batches)
            for place in places_to_compare(captured, shapes):
                if shapes[place] not in known:
                    known.add(shapes[place])
                    chosen.append(batches[place])
        return tuple(chosen)

    def run(self, batch: Batch) -> Any:
        """Call the float model with a batch."""
        inputs = batch.inputs
        if self.writes_inputs:
            inputs = tuple(item.clone() for item in inputs)
        return self.calling.call(self.model, inputs)

    @property
    def flat(self) -> nn.Module:
        """The float model as a module that takes the tensors of a batch, and leaves them alone."""
        return self._flat(self.model)

    @property
    def timed(self) -> nn.Module:
        """`flat` with the model's own outputs alone: the rival whose latency is measured."""
        return self._flat(without_sources(self.model))

    def _flat(self, model: nn.Module) -> nn.Module:
        flat = self.calling.flatten(model)
        return OnCopies(flat) if self.writes_inputs else flat

    def find_sites(self) -> Capture:
        """Capture the model; module by module where the graph computes something else."""
        found = self._capture(self.capture)
        if found.how == "modules":
            return found
        different = self._difference(found)
        if different is None:
            return found
        if self._is_rounding(found, different):
            return found.noting(
                f"in the exported graph {different}, by rounding alone: in float64 they are the "
                "same; what float32 computes of this model is that far off."
            )
        if self.capture == "auto":
            fixed = fixed_sizes(self.calling, self.dynamic, found.dynamic, self.example)
            said = "".join(
                f"; it is made for one size of {name} alone ({sizes}), and whole batches of that "
                "size (drop_last=True) would be captured by it"
                for name, sizes in fixed.items()
            )
            why = f"since in the exported graph {different}{said}"
            return self._capture("modules").noting(BY_MODULES.format(why))
        raise ModelError(
            f"the captured graph computes something else than the model: {different}",
            hint="remove state and control flow that depend on the call; or model.capture: "
            "modules, which runs the model as it is",
        )

    def _capture(self, how: str) -> Capture:
        return capture(
            self.model,
            self.example,
            self.leaf_modules,
            how,
            calling=self.calling,
            dynamic=self.dynamic,
        )

    def _difference(self, found: Capture) -> Difference | None:
        return find_difference(
            lambda inputs: self.calling.call(self.model, inputs),
            lambda inputs: found.graph(*inputs),
            self.compared(found),
        )

    def _is_rounding(self, found: Capture, different: Difference) -> bool:
        """Whether a graph that differs from the model is the same function in float64.

        A difference that is another one at a second look comes from the model's state.
        """
        if different.failure or self._difference(found) != different:
            return False
        wide = model_in_float64(self.model, self.calling)
        return is_same_in_float64(wide, found, self.compared(found))

    def equalised(self, equalisation: Equalisation) -> Subject:
        """The same with rescaled channels; itself where there is nothing to rescale.

        Raises:
            ModelError: The model has no such parameters.
        """
        if not equalisation:
            return self
        given = self.given or self.model
        return replace(self, model=rescaled(self.model, equalisation), given=given)

    def reader(self) -> DataReader:
        """Reads more data for the same model."""
        return DataReader(without_sources(self.model), self.form, self.calling)
