"""Models as people hold them: wrapped, masked, locked, on other devices, writing their inputs."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant import metrics
from autoquant.errors import ModelError
from autoquant.model.building import build_subject
from autoquant.model.data.calling import Calling
from autoquant.model.graph.capture import capture
from autoquant.model.graph.exported import export_float
from autoquant.model.graph.float_model import check_float_model
from autoquant.model.recipes import HeldRecipe
from autoquant.model.subject import Subject
from tests.networks import LinearNet, seeded

X = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48) % 3


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x)


class Writes(Base):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x.clamp_(0, 1))


class Masked(Base):
    def __init__(self) -> None:
        super().__init__()
        mask = torch.zeros(4).masked_fill(torch.arange(4) == 3, -torch.inf)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Any:
        return (self.linear(x) + self.mask).softmax(1)


class Locked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Any:
        with self.lock:
            return self.linear(x)


class Talks(Base):
    def forward(self, x: Tensor) -> Any:
        return {"logits": self.linear(x), "task": "words", "best": self.linear(x).argmax(1), "n": 3}


class Sums(Base):
    def __init__(self) -> None:
        super().__init__()
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Any:
        return self.add.add(self.linear(x), self.linear(x))


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return x


class Counts(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Mean()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.inner(self.linear(x))


class Cache:
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


class Caches(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return {"logits": y, "cache": Cache(y)}


def test_without_labels_a_cache_of_keys_and_values_is_no_target() -> None:
    subject = build_subject(
        Caches().eval(), calibration=X, evaluation=X, heldout=None, metric=metrics.agreement
    )
    (batch,) = subject.evaluation
    assert batch.targets["cache"] is None
    assert batch.head(2).targets["logits"].shape[0] == 2


class Keywords(Base):
    def forward(self, x: Tensor, **others: Any) -> Any:
        return self.linear(x) * others["scale"]


class DependsOnValues(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return y if float(y.mean()) > 1e3 else 2 * y


def subject_of(model: nn.Module) -> Subject:
    return build_subject(
        model,
        calibration=X,
        evaluation=(X, Y),
        heldout=None,
        metric=lambda outputs, targets: 0.0,
    )


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        lambda m: nn.DataParallel(torch.compile(m)),
    ],
    ids=["DataParallel", "torch.compile", "both"],
)
def test_a_wrapped_model_is_taken_out_with_a_notice(wrap: Any) -> None:
    model = Base().eval()
    subject = subject_of(wrap(model).eval())
    assert subject.model is model
    assert "the module that it wraps is searched" in subject.notices[0]


def test_a_model_that_writes_its_inputs_gets_copies() -> None:
    before = X.clone()
    subject = subject_of(Writes().eval())
    assert torch.equal(X, before)
    assert subject.notices == (
        "the model's forward writes into its inputs; it is given copies of them",
    )
    (batch,) = subject.evaluation
    with torch.no_grad():
        found = subject.run(batch)
        assert torch.equal(found, subject.flat(*batch.inputs))
        assert torch.equal(found, subject.model.linear(before.clamp(0, 1)))
    assert torch.equal(X, before)


def test_a_model_that_counts_its_calls_stays_as_it_is() -> None:
    model = Counts().eval()
    subject = subject_of(model)
    assert subject.notices == (
        "the model's forward writes into its buffers (calls, inner.mean); a copy of it is "
        "searched, and what is built leaves them alone",
    )
    assert subject.given is model
    assert subject.model is not model
    assert model.calls.item() == 0
    assert (model.inner.mean == 0).all()
    graph = subject.find_sites().graph
    assert graph is not None
    assert torch.equal(graph(X), model.linear(X))


def test_an_object_among_the_outputs_is_left_out_with_a_notice() -> None:
    subject = subject_of(Caches().eval())
    assert subject.notices == (
        "the model returns what torch cannot look into, cache (Cache): it is not compared, and "
        "what is built of the exported graph returns None for it",
    )
    graph = subject.find_sites().graph
    assert graph is not None
    found = graph(X)
    assert found["cache"] is None
    assert torch.equal(found["logits"], subject.model(X)["logits"])


def test_keywords_that_forward_does_not_name_are_exported_at_any_batch_size() -> None:
    model = Keywords().eval()
    given = {"x": X, "scale": torch.rand(len(X), 1), "flag": None}
    calling, tensors = Calling.of(given, model)
    captured = capture(model, tensors, calling=calling, how="export", dynamic=((0,), (0,)))
    assert captured.dynamic == ((0,), (0,))
    expected = model(x=X[:3], scale=given["scale"][:3])
    assert torch.equal(captured.graph(X[:3], given["scale"][:3]), expected)


def test_what_an_export_prints_is_no_output_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    captured = capture(DependsOnValues().eval(), (X,))
    assert captured.how == "modules"
    with pytest.raises(ModelError, match="cannot export the model"):
        export_float(captured, (X,))
    assert capfd.readouterr() == ("", "")


class Loops(nn.Module):
    """Has a branch that torch cannot turn into a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, steps: int = 2) -> Tensor:
        if x.size(1) > 2:
            x = x * 0.5
        for _ in range(steps):
            x = torch.relu(self.linear(x))
        return x


def test_script_modules_are_sites_on_the_paths_of_the_model() -> None:
    inner = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval())
    model = nn.Sequential(Base(), nn.Sequential(inner)).eval()
    captured = capture(model, (X,))
    assert [(site.name, site.module) for site in captured.sites] == [
        ("0.linear", "0.linear"),
        ("1.0:linear:0", "1.0"),
    ]
    assert torch.equal(captured.graph(X[:5]), model(X[:5]))
    assert model[1][0] is inner


def test_a_script_module_of_which_torch_makes_no_graph_is_named() -> None:
    model = nn.Sequential(Base(), torch.jit.script(Loops().eval())).eval()
    captured = capture(model, (X,))
    assert [site.name for site in captured.sites] == ["0.linear"]
    assert "torch makes no graph of the ScriptModule at '1'" in captured.notices[0]
    with pytest.raises(ModelError, match=r"no graph of its ScriptModules \(1\)"):
        export_float(captured, (X,))


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OwnConv(nn.Conv1d):
    """Pads by itself."""

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (2, 0))
        return nn.functional.conv1d(padded, self.weight, self.bias)


class Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = OwnConv(1, 4, 3), OwnLinear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x[:, None]))


def test_subclasses_of_layers_are_sites() -> None:
    captured = capture(Causal().eval(), (X,))
    weighted = [site.name for site in captured.sites if site.kind.is_weighted]
    assert weighted == ["conv", "linear"]


def test_subclasses_that_compute_something_else_are_said_where_modules_alone_are_seen() -> None:
    model = nn.Sequential(Base(), OwnLinear(4, 64)).eval()
    captured = capture(model, (X,), how="modules")
    assert [site.name for site in captured.sites] == ["0.linear"]
    assert captured.notices == ("sites hold 17.5% of the weights; not seen: OwnLinear at 1.",)
    assert capture(nn.Sequential(Base()).eval(), (X,), how="modules").notices == ()


def test_an_output_of_nothing_but_zeros_is_said() -> None:
    model = Base().eval()
    nn.init.zeros_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)
    assert "nothing but zeros on calibration batch 0" in subject_of(model).notices[0]
    assert subject_of(Base().eval()).notices == ()


def test_minus_infinity_in_a_buffer_is_a_mask() -> None:
    assert subject_of(Masked().eval()).model.mask[3] == -torch.inf
    ruined = Masked().eval()
    ruined.mask[0] = torch.nan
    with pytest.raises(ModelError, match="the model's mask holds NaN"):
        subject_of(ruined)
    weight = Base().eval()
    weight.linear.weight.data[0, 0] = -torch.inf
    with pytest.raises(ModelError, match=r"the model's linear\.weight holds NaN or infinity"):
        subject_of(weight)


def test_a_model_with_a_lock_is_taken_and_named_where_it_cannot_go() -> None:
    subject = subject_of(Locked().eval())
    assert isinstance(subject.model, Locked)
    with pytest.raises(ModelError, match="cannot be sent to workers"):
        HeldRecipe(subject).__reduce__()
    with pytest.raises(ModelError, match="in training mode and cannot be copied"):
        subject_of(Locked())


def test_constants_and_integers_among_outputs_are_let_through() -> None:
    assert subject_of(Talks().eval()).calling.is_plain


def test_a_model_with_float_functionals_is_no_quantized_model() -> None:
    assert isinstance(check_float_model(Sums().eval()), Sums)


@pytest.mark.parametrize(
    ("model", "message", "hint"),
    [
        (Base().half(), "is float16, not float32", r"model\.float\(\)"),
        (Base().to("meta"), "has no values yet", "load the checkpoint"),
        (torch.jit.script(Base().eval()), "whose Python code is gone", "TorchScript was made from"),
    ],
    ids=["half", "meta", "script"],
)
def test_a_model_that_cannot_be_taken_is_named_with_its_mend(
    model: nn.Module, message: str, hint: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        subject_of(model.eval())
    assert hint.replace("\\", "") in caught.value.hint


def test_a_metric_by_its_name_works_as_in_a_job() -> None:
    model = seeded(LinearNet)
    found = build_subject(
        model, calibration=X, evaluation=(X, Y), heldout=None, metric="accuracy"
    ).metric
    assert found is aq.metrics.accuracy
