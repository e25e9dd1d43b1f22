"""Situations that people bring: forms of data that must be read rightly, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import autoquant as aq
from autoquant.errors import DataError, ModelError
from autoquant.job import Job
from autoquant.model.building import build_subject
from autoquant.model.data.readings import DataForm
from autoquant.model.recipes import JobRecipe, load_model
from autoquant.model.subject import Subject

COUNT = 96
X = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(0))
MASK = (torch.rand(COUNT, 6, generator=torch.Generator().manual_seed(1)) > 0.5).float()
LABELS = torch.arange(COUNT) % 3


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Masked(Plain):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return self.linear(x * mask)


class MaybeMasked(Plain):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return self.linear(x if mask is None else x * mask) * scale


class ByDict(Plain):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return self.linear(batch["values"] * batch["mask"])


@dataclass
class Sample:
    values: Tensor
    mask: Tensor | None = None


class ByDataclass(Plain):
    def forward(self, sample: Sample) -> Tensor:  # type: ignore[override]
        return self.linear(sample.values if sample.mask is None else sample.values * sample.mask)


class Tokens(nn.Module):
    """Padded token sequences, pooled over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.linear = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[..., None].float()
        return self.linear((self.embedding(input_ids) * weight).sum(1) / weight.sum(1))


class TimeFirst(nn.Module):
    """Frames of shape (time, batch, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, frames: Tensor) -> Tensor:
        return self.linear(frames).mean(0)


class Rows(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": X[index], "mask": MASK[index], "label": LABELS[index]}


def subject_of(
    model: nn.Module, evaluation: object, calibration: object = None, **form: Any
) -> Subject:
    torch.manual_seed(0)
    return build_subject(
        model.eval(),
        calibration=evaluation if calibration is None else calibration,
        evaluation=evaluation,
        heldout=None,
        metric=aq.metrics.accuracy,
        form=DataForm(**form),
    )


def outputs_of(subject: Subject) -> Tensor:
    with torch.no_grad():
        return torch.cat([subject.run(batch) for batch in subject.evaluation])


def loader_of(*columns: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*columns), 32)


MASKED = {
    "tensors in a tuple": ((X, MASK), LABELS),
    "a flat tuple of tensors": (X, MASK, LABELS),
    "a mapping and targets": ({"mask": MASK, "x": X}, LABELS),
    "arrays": ((X.double().numpy(), MASK.numpy()), LABELS.numpy()),
    "a list of batches": [((X[:40], MASK[:40]), LABELS[:40]), ((X[40:], MASK[40:]), LABELS[40:])],
    "batches of three parts": loader_of(X, MASK, LABELS),
    "lists in batches": [[[X, MASK], LABELS]],
    "arguments by place and by name": [(aq.Arguments((X,), {"mask": MASK}), LABELS)],
    "a function that returns a loader": lambda: loader_of(X, MASK, LABELS),
}


@pytest.mark.parametrize("data", MASKED.values(), ids=MASKED.keys())
def test_inputs_of_a_model_that_takes_two_are_read_from_every_form(data: object) -> None:
    subject = subject_of(Masked(), data)
    found = outputs_of(subject)
    with torch.no_grad():
        assert torch.equal(found, subject.model(X, MASK))
    assert torch.equal(torch.cat([batch.targets for batch in subject.evaluation]), LABELS)


def test_batches_of_mappings_with_a_named_target_are_read() -> None:
    subject = subject_of(Masked(), DataLoader(Rows(), 32), target="label")
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), subject.model(X, MASK))
    assert subject.calling.names == ("x", "mask")


def test_all_samples_in_one_mapping_with_a_named_target_are_read() -> None:
    data = {"label": LABELS, "x": X.numpy(), "mask": MASK}
    subject = subject_of(Masked(), data, target="label")
    assert [len(batch) for batch in subject.evaluation] == [64, 32]
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), subject.model(X, MASK))


def test_a_mapping_is_the_one_input_of_a_model_that_takes_one() -> None:
    data = [({"values": X, "mask": MASK}, LABELS)]
    subject = subject_of(ByDict(), data)
    assert subject.calling.names == ("batch.values", "batch.mask")
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), subject.model({"values": X, "mask": MASK}))


def test_a_dataclass_of_tensors_is_an_input() -> None:
    subject = subject_of(ByDataclass(), [(Sample(X, MASK), LABELS)])
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), subject.model(Sample(X, MASK)))


@dataclass
class Record:
    x: Tensor
    mask: Tensor
    label: Any


class Series:
    """As a column of pandas: numpy reads it."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.numpy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values


COLUMNS = {
    "a list of numbers": (X, LABELS.tolist()),
    "lists of lists": (X.tolist(), LABELS.tolist()),
    "what numpy reads": (Series(X), Series(LABELS)),
    "lists in a mapping": {"x": X.tolist(), "label": LABELS.tolist()},
    "a function that returns all samples": lambda: (X, LABELS.tolist()),
    "lists in batches": [(X[:64], LABELS[:64].tolist()), (X[64:], LABELS[64:].tolist())],
}


@pytest.mark.parametrize("data", COLUMNS.values(), ids=COLUMNS.keys())
def test_numbers_in_lists_and_columns_are_read_as_tensors(data: object) -> None:
    subject = subject_of(Plain(), data)
    assert [len(batch) for batch in subject.evaluation] == [64, 32]
    assert torch.equal(torch.cat([batch.targets for batch in subject.evaluation]), LABELS)
    with torch.no_grad():
        torch.testing.assert_close(outputs_of(subject), subject.model(X))


def test_a_batch_may_be_a_dataclass_of_inputs_and_targets() -> None:
    subject = subject_of(Masked(), [Record(X, MASK, LABELS.tolist())])
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), subject.model(X, MASK))
    assert torch.equal(subject.evaluation[0].targets, LABELS)


def test_targets_that_metrics_alone_understand_are_left_alone() -> None:
    names = [f"{index}.png" for index in range(COUNT)]
    subject = build_subject(
        Plain().eval(),
        calibration=X,
        evaluation=[(X, names)],
        metric=lambda outputs, targets: float(len(targets) == len(outputs)),
    )
    assert subject.evaluation[0].targets == names


@pytest.mark.parametrize("label", [LABELS, LABELS.tolist()], ids=["tensors", "numbers"])
def test_single_samples_are_refused_with_what_makes_batches_of_them(label: Any) -> None:
    samples = list(zip(X, label, strict=True))
    with pytest.raises(DataError, match=r"6 inputs but (1|one number)") as caught:
        subject_of(Plain(), samples)
    assert "DataLoader(samples, batch_size=64)" in caught.value.hint
    again = subject_of(Plain(), DataLoader(samples, batch_size=64))  # type: ignore[arg-type]
    assert [len(batch) for batch in again.evaluation] == [64, 32]


def test_what_nothing_else_understands_is_prepared_by_a_function() -> None:
    records = [f"{row}" for row in range(4)]

    def prepare(record: str) -> Any:
        part = slice(int(record) * 24, int(record) * 24 + 24)
        return {"x": X[part], "mask": MASK[part]}, LABELS[part]

    subject = subject_of(Masked(), records, prepare=prepare)
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), subject.model(X, MASK))


def test_a_function_that_fails_to_prepare_is_named() -> None:
    with pytest.raises(DataError, match=r"evaluation batch 0: `prepare` failed: KeyError: 'gone'"):
        subject_of(Plain(), [{"x": X}], prepare=lambda item: item["gone"])


def test_none_and_scalars_among_the_inputs_are_constants() -> None:
    subject = subject_of(MaybeMasked(), [((X, None, 0.5), LABELS)])
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), subject.model(X, None, 0.5))
    assert subject.calling.names == ("x",)


def test_a_scalar_that_changes_from_batch_to_batch_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"evaluation batch 1: .* is 0\.25, .* 0\.5"):
        subject_of(MaybeMasked(), [((X, None, scale), LABELS) for scale in (0.5, 0.25)])


def test_a_tensor_without_dimensions_may_change_from_batch_to_batch() -> None:
    data = [((X, MASK, torch.tensor(scale)), LABELS) for scale in (0.5, 0.25)]
    subject = subject_of(MaybeMasked(), data)
    halves = outputs_of(subject).split(COUNT)
    torch.testing.assert_close(halves[0], halves[1] * 2)
    assert subject.calibration[0].head(5).inputs[2].ndim == 0


def test_calibration_may_be_a_list_of_input_tuples() -> None:
    evaluation = ((X, MASK), LABELS)
    tuples = [(X[:48], MASK[:48]), (X[48:], MASK[48:])]
    subject = subject_of(Masked(), evaluation, calibration=tuples)
    assert [len(batch.inputs) for batch in subject.calibration] == [2, 2]


@pytest.mark.parametrize(
    "prepare", [None, lambda batch: batch], ids=["as it is", "prepared in parts"]
)
def test_all_inputs_at_once_may_have_none_in_the_place_of_targets(prepare: Any) -> None:
    data = ((X, MASK), LABELS)
    subject = subject_of(Masked(), data, calibration=((X, MASK), None), prepare=prepare)
    for place, column in enumerate((X, MASK)):
        assert torch.equal(
            torch.cat([batch.inputs[place] for batch in subject.calibration]), column
        )


@pytest.mark.parametrize("model", [Masked(), MaybeMasked()], ids=["required", "optional"])
def test_the_second_input_is_not_taken_for_targets_in_calibration(model: nn.Module) -> None:
    subject = subject_of(model, ((X, MASK), LABELS), calibration=loader_of(X, MASK))
    assert [len(batch.inputs) for batch in subject.calibration] == [2, 2, 2]


def test_targets_beside_calibration_inputs_are_told_by_the_evaluation_data() -> None:
    subject = subject_of(MaybeMasked(), (X, LABELS), calibration=loader_of(X, LABELS))
    assert [len(batch.inputs) for batch in subject.calibration] == [1, 1, 1]


def test_evaluation_data_whose_second_part_is_an_input_lack_targets() -> None:
    with pytest.raises(DataError, match=r"has no targets: model\.forward takes x") as caught:
        subject_of(Masked(), loader_of(X, MASK))
    assert "give ((x, mask), targets)" in caught.value.hint


def test_a_pair_that_may_be_either_is_refused_where_no_other_data_tell() -> None:
    with pytest.raises(DataError, match="may be the targets, or the input 'mask'") as caught:
        aq.check(MaybeMasked().eval(), loader_of(X, MASK))
    assert "give ((x,), targets); or ((x, mask), targets)" in caught.value.hint


def test_a_mask_is_not_taken_for_targets_in_evaluation_either() -> None:
    with pytest.raises(DataError, match="may be the targets, or the input 'mask'"):
        subject_of(MaybeMasked(), loader_of(X, MASK))


def test_labels_are_told_from_an_optional_mask_that_they_cannot_be() -> None:
    found = aq.check(MaybeMasked().eval(), loader_of(X, LABELS))
    assert [output.shape[1:] for output in found.outputs] == [(3,)]


def test_what_may_be_an_input_is_settled_by_a_container_of_inputs() -> None:
    subject = subject_of(MaybeMasked(), [((X,), torch.ones(COUNT, 6).long()[:, 0])])
    assert subject.calling.names == ("x",)


def test_data_sets_of_another_number_of_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="calibration batch 0 has inputs of another structure than"):
        subject_of(MaybeMasked(), ((X, MASK), LABELS), calibration=[X])


def test_a_mapping_with_a_key_that_forward_lacks_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="an input 'label', which is no parameter") as caught:
        subject_of(Masked(), ({"x": X, "mask": MASK, "label": LABELS}, LABELS))
    assert "`target`" in caught.value.hint


def test_all_keys_that_forward_lacks_are_named_at_once() -> None:
    batch = {"x": X, "mask": MASK, "label": LABELS, "place": LABELS}
    with pytest.raises(DataError, match="inputs 'label', 'place', which are no parameters"):
        subject_of(Masked(), [batch])


def test_what_comes_beside_inputs_and_targets_is_settled_by_prepare_as_the_error_says() -> None:
    data = [(X, LABELS, tuple(f"{index}.png" for index in range(COUNT)))]
    with pytest.raises(DataError, match=r"has 3 parts .* but on the first part") as caught:
        subject_of(Plain(), data)
    assert "prepare=lambda batch: (batch[0], batch[1])" in caught.value.hint
    found = aq.check(Plain().eval(), data, prepare=lambda batch: (batch[0], batch[1]))
    assert [output.shape[1:] for output in found.outputs] == [(3,)]


class Listed(Plain):
    def forward(self, rows: list[Tensor]) -> Tensor:  # type: ignore[override]
        return self.linear(torch.stack(rows))


class Unlisted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Listed()

    def forward(self, rows: Tensor) -> Tensor:
        return self.model(list(rows))


def test_samples_that_are_tensors_of_their_own_are_refused_with_a_way_that_works() -> None:
    with pytest.raises(DataError, match="takes its 96 samples as so many tensors") as caught:
        subject_of(Listed(), [(list(X), LABELS)])
    assert "list(images)" in caught.value.hint
    batches = [(X[:64], LABELS[:64]), (X[64:], LABELS[64:])]
    captured = subject_of(Unlisted(), batches, calibration=batches).find_sites()
    assert captured.how == "modules"
    assert "a batch of (32, 6) fails" in captured.notices[0]


def tokens(length: int, count: int = 8) -> dict[str, Tensor]:
    ids = torch.randint(0, 50, (count, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_batches_of_different_lengths_are_read_and_their_axis_found() -> None:
    data = [(tokens(length), torch.arange(8) % 3) for length in (5, 9, 7)]
    subject = subject_of(Tokens(), data)
    assert subject.dynamic == ((0, 1), (0, 1))
    assert outputs_of(subject).shape == (24, 3)


def test_an_axis_that_is_named_is_dynamic_though_the_data_have_one_length() -> None:
    data = [(tokens(5), torch.arange(8) % 3)] * 2
    assert subject_of(Tokens(), data).dynamic == ((0,), (0,))
    named = subject_of(Tokens(), data, dynamic={"input_ids": [0, 1]})
    assert named.dynamic == ((0, 1), (0,))


def test_samples_are_counted_by_the_axis_that_is_named_first() -> None:
    frames = torch.randn(7, 10, 4)
    subject = subject_of(TimeFirst(), [(frames, torch.arange(10) % 3)], dynamic={"frames": [1, 0]})
    (batch,) = subject.evaluation
    assert len(batch) == 10
    assert torch.equal(batch.head(3).inputs[0], frames[:, :3])
    assert torch.equal(batch.pick([1, 4]).inputs[0], frames[:, [1, 4]])


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [({"frame": [1]}, "no input 'frame'"), ({"frames": [3]}, "frames has no axis 3")],
    ids=["input", "axis"],
)
def test_a_dynamic_axis_that_is_not_there_is_refused(dynamic: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        subject_of(TimeFirst(), [(torch.randn(7, 10, 4), torch.arange(10))], dynamic=dynamic)


class Graph(nn.Module):
    """Sums what flows along the edges into each node."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        sent = self.linear(x)
        return sent.index_add(0, edges[1], sent[edges[0]])


def test_an_input_without_samples_is_taken_whole_with_its_batch() -> None:
    edges = torch.randint(0, 20, (2, 33))
    subject = subject_of(Graph(), [((X[:20], edges), LABELS[:20])])
    (batch,) = subject.evaluation
    assert len(batch) == 20
    assert [len(part) for part in batch.parts(8)] == [20]
    assert torch.equal(batch.head(3).inputs[0], X[:20])
    with pytest.raises(DataError, match="cannot be taken apart by sample"):
        batch.pick([3])


def test_a_batch_of_another_length_that_the_model_refuses_is_named_before_the_search() -> None:
    data = [(X, LABELS), (X[:, :5], LABELS)]
    with pytest.raises(
        ModelError, match=r"the model failed on evaluation batch 1 of shape \(96, 5\)"
    ):
        subject_of(Plain(), data)


def test_data_made_under_inference_mode_are_read() -> None:
    with torch.inference_mode():
        made = X * 2
    subject = subject_of(Plain(), (made, LABELS))
    assert not any(batch.inputs[0].is_inference() for batch in subject.evaluation)


def test_an_additive_mask_of_minus_infinity_is_an_input() -> None:
    class Attention(Plain):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            return self.linear((x + mask).softmax(1))

    mask = torch.zeros(COUNT, 6).masked_fill(torch.arange(6) > 3, -torch.inf)
    assert torch.isfinite(outputs_of(subject_of(Attention(), ((X, mask), LABELS)))).all()
    with pytest.raises(DataError, match="holds NaN or infinity"):
        subject_of(Attention(), ((X / 0, mask), LABELS))


def job_model() -> nn.Module:
    torch.manual_seed(0)
    return Masked().eval()


def job_data() -> Iterator[dict[str, Any]]:
    yield from DataLoader(Rows(), 32)


def job_records() -> list[int]:
    return [0, 1, 2]


def job_prepare(record: int) -> Any:
    part = slice(record * 32, record * 32 + 32)
    return (X[part], MASK[part]), LABELS[part]


@pytest.mark.parametrize(
    ("entry", "form"),
    [("job_data", {"target": "label"}), ("job_records", {"prepare": f"{__name__}:job_prepare"})],
    ids=["target", "prepare"],
)
def test_a_job_names_the_target_and_what_prepares(entry: str, form: dict[str, Any]) -> None:
    data = dict.fromkeys(("calibration", "evaluation"), f"{__name__}:{entry}")
    document = {
        "name": "forms",
        "model": {"entry": f"{__name__}:job_model"},
        "data": {**data, **form, "metric": "accuracy", "dynamic": {"x": [0]}},
        "space": {"schemes": ["int8", "fp32"]},
        "output": "out",
    }
    subject = JobRecipe(Job.model_validate(document))()
    with torch.no_grad():
        assert torch.equal(outputs_of(subject), job_model()(X, MASK))


HELD = Masked().eval()


def test_the_name_of_a_model_may_be_that_of_a_module() -> None:
    data = dict.fromkeys(("calibration", "evaluation"), f"{__name__}:job_data")
    document = {
        "name": "held",
        "model": {"entry": f"{__name__}:HELD"},
        "data": {**data, "metric": "accuracy"},
        "space": {"schemes": ["int8", "fp32"]},
        "output": "out",
    }
    assert load_model(Job.model_validate(document)) is HELD


def test_arrays_are_split_like_tensors() -> None:
    subject = subject_of(Plain(), (np.asarray(X), np.asarray(LABELS)))
    assert [len(batch) for batch in subject.evaluation] == [64, 32]


def test_a_generator_is_read_once_and_kept() -> None:
    batches = ((X[start : start + 32], LABELS[start : start + 32]) for start in (0, 32, 64))
    subject = subject_of(Plain(), batches, calibration=X)
    assert torch.equal(outputs_of(subject), outputs_of(subject))
