"""A subject holds the model in eval mode, and leaves the user's own as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.errors import MetricError, ModelError
from autoquant.model.building import build_subject
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.subject import Subject
from tests.faulty import good_data, good_metric, good_model
from tests.networks import LinearNet, seeded


def subject_of(model: nn.Module) -> Subject:
    return build_subject(
        model, calibration=good_data(), evaluation=good_data(), heldout=None, metric=good_metric
    )


@pytest.mark.parametrize("path", ["", "second"], ids=["whole", "one submodule"])
def test_a_model_in_training_mode_stays_in_it(path: str) -> None:
    model = good_model()
    model.get_submodule(path).train()
    before = {name: module.training for name, module in model.named_modules()}
    subject = subject_of(model)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(module.training for module in subject.model.modules())
    for kept, given in zip(subject.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(kept, given)


def test_a_model_in_eval_mode_is_not_copied() -> None:
    model = good_model()
    assert subject_of(model).model is model


class Unsteady(nn.Module):
    """What it gives differs from call to call by so much of the largest output."""

    def __init__(self, apart: float) -> None:
        super().__init__()
        self.model, self.apart, self.calls = good_model(), apart, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.model(x)
        return found + found.abs().max() * self.apart * (self.calls % 2)


def test_only_what_no_roundoff_explains_is_another_output_for_the_same_batch() -> None:
    subject_of(Unsteady(1e-6).eval())
    with pytest.raises(ModelError, match="different outputs for the same batch"):
        subject_of(Unsteady(1e-4).eval())


class RowByRow(nn.Module):
    """Takes a batch apart, which torch.export does for one number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.linear(row) for row in x])


def test_a_smaller_batch_than_a_graph_is_made_for_is_named_with_the_mend() -> None:
    batches = [(torch.randn(count, 4), torch.zeros(count)) for count in (4, 4, 3)]
    found = build_subject(
        RowByRow().eval(),
        calibration=batches,
        evaluation=batches,
        heldout=None,
        metric=lambda outputs, targets: outputs[:, 0] - targets,
    ).find_sites()
    assert found.how == "modules"
    assert "one size of x alone (axis 0 at 4), and whole batches" in found.notices[0]


class Detector(nn.Module):
    """Hands out logits, and the boxes of nothing that it found."""

    def __init__(self) -> None:
        super().__init__()
        self.model = good_model()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(x), "boxes": x[:, :0]}


def test_an_output_that_holds_nothing_is_taken() -> None:
    images = torch.randn(8, 16)
    subject = build_subject(
        Detector().eval(), calibration=images, evaluation=images, heldout=None, metric="cosine"
    )
    assert "boxes" in subject.run(subject.evaluation[0])


def test_without_labels_the_targets_are_what_the_float_model_gives() -> None:
    model, images = seeded(LinearNet), torch.randn(100, 16)
    subject = build_subject(
        model, calibration=images, evaluation=images, heldout=None, metric="agreement"
    )
    for batch in subject.evaluation:
        assert torch.equal(batch.targets, model(batch.inputs[0]))
    assert subject.calibration[0].targets is None


def test_a_metric_against_float_takes_no_loss_against_targets() -> None:
    images = torch.randn(8, 16)
    with pytest.raises(MetricError, match="compares with the float model, the other with targets"):
        build_subject(
            seeded(LinearNet),
            calibration=images,
            evaluation=images,
            heldout=None,
            metric="cosine",
            loss="mse",
        )


class Halving(nn.Module):
    """Takes another path for an odd number of steps, as strided models that pad do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            x = x[:, 1:]
        return self.linear(x.reshape(len(x), x.shape[1] // 2, 8)).mean(1)


def halving(steps: list[int], **settings: str) -> Subject:
    data = [torch.randn(4, count, 4) for count in steps]
    return build_subject(
        Halving().eval(),
        calibration=data,
        evaluation=data[:2],
        heldout=None,
        metric="cosine",
        **settings,
    )


def test_a_graph_is_compared_on_sizes_that_it_was_not_made_for() -> None:
    even = halving([6, 8, 10, 12]).find_sites()
    assert even.how == "export"
    found = halving([6, 8, 7, 9, 12]).find_sites()
    assert found.how == "modules"
    assert "a batch of (4, 7, 4) fails" in found.notices[0]


def test_a_forced_graph_of_another_path_is_refused() -> None:
    with pytest.raises(ModelError, match=r"computes something else than the model: a batch of"):
        halving([6, 8, 7, 9, 12], capture="export").find_sites()


def test_only_sizes_of_another_path_are_compared() -> None:
    subject = halving([6, 8, 10, 12, 14, 16])
    sizes = [batch.inputs[0].shape[1] for batch in subject.compared(subject.find_sites())]
    assert sorted(set(sizes)) == [6, 8, 16]


class Padded(nn.Module):
    """torch leaves padding out of such an encoder, by nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.last(self.encoder(x, src_key_padding_mask=padding).mean(1))


def test_an_encoder_that_leaves_padding_out_is_searched_as_a_copy_that_computes_it() -> None:
    model = Padded().eval()
    padding = torch.zeros(4, 6, dtype=torch.bool)
    padding[0, 4:] = True
    data = [(torch.randn(4, 6, 8), padding) for _ in range(2)]
    subject = build_subject(model, calibration=data, evaluation=data, heldout=None, metric="cosine")
    assert any("leaves padding out" in notice for notice in subject.notices)
    assert subject.find_sites().how == "export"
    assert model.encoder.use_nested_tensor


class Shifted(nn.Module):
    """Takes three tensors, of which the data give the first and the last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        x = x if scale is None else x * scale
        found: Tensor = self.layer(x if shift is None else x + shift)
        return found


def test_module_by_module_inputs_arrive_by_their_names() -> None:
    data = [{"x": torch.rand(8, 16), "shift": torch.full((8, 16), 5.0)}]
    subject = build_subject(
        Shifted().eval(),
        calibration=data,
        evaluation=data,
        heldout=None,
        metric="cosine",
        capture="modules",
    )
    captured, given = subject.find_sites(), [batch.inputs for batch in subject.calibration]
    assert torch.equal(captured.graph(*given[0]), subject.run(subject.calibration[0]))
    found = calibrate(captured, given)
    read = found.tensors["layer@input"]
    assert read.low >= 5.0
    assert read.high <= 6.0
