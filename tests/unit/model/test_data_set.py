"""Data that are larger than the cache are read again for each use."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autoquant import metrics
from autoquant.core.evaluation import Threshold
from autoquant.core.measurement import Kind
from autoquant.errors import DataError, ModelError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.data_set import InputsOf, StreamedBatches
from autoquant.model.data.reader import DataReader
from autoquant.model.data.readings import DataForm
from autoquant.model.graph.capture import capture
from autoquant.searching.measuring.quality import measure_quality, run_reference
from tests.networks import LinearNet, seeded

X = torch.randn(320, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(320) % 4
MODEL = seeded(LinearNet)
SMALL = 4096  # bytes: two batches of 32 samples


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for start in range(0, 320, 32):
            yield X[start : start + 32], Y[start : start + 32]


class Again:
    """An object that can be iterated over again and again, and counts how often it was."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(Stream())


SOURCES: dict[str, Any] = {
    "loader": lambda: DataLoader(TensorDataset(X, Y), 32),
    "shuffled loader": lambda: DataLoader(TensorDataset(X, Y), 32, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=None),
    "iterable": Again,
    "function": lambda: lambda: iter(Stream()),
}
every_source = pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())


def read(source: object, cache_bytes: int = SMALL, **form: Any) -> Any:
    reader = DataReader(MODEL, DataForm(cache_bytes=cache_bytes, **form))
    return reader.read(source, "evaluation", needs_targets=True)


def run(inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return MODEL(*inputs)  # type: ignore[no-any-return]


def rough(inputs: tuple[Tensor, ...]) -> Tensor:
    return (run(inputs) * 4).round() / 4


@every_source
def test_each_pass_gives_the_same_batches(make: Any) -> None:
    data = read(make())
    assert isinstance(data, StreamedBatches)
    first, second = ([batch.inputs[0] for batch in data] for _ in range(2))
    assert len(data) == len(first) == 10
    assert data.sizes == (32,) * 10
    assert all(map(torch.equal, first, second))
    assert sorted(torch.cat(first)[:, 0].tolist()) == sorted(X[:, 0].tolist())


@every_source
def test_what_fits_the_cache_is_kept(make: Any) -> None:
    assert isinstance(read(make(), 1 << 20), tuple)


@every_source
def test_quality_is_that_of_the_data_in_memory(make: Any) -> None:
    data = read(make())
    functions = {"accuracy": metrics.accuracy}
    for batches in (data, tuple(data)):
        reference = run_reference(run, batches, functions)
        found = measure_quality(rough, reference, functions, Kind.MEASURED).measurements
        assert found["accuracy"].samples == 320
        values = {name: item.value for name, item in found.items()}
        if batches is data:
            streamed = values
    assert streamed == pytest.approx(values, rel=1e-9)


@pytest.mark.slow
def test_no_more_than_one_batch_beside_the_first_is_alive() -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watched:
        def __iter__(self) -> Iterator[Any]:
            for start in range(0, 320, 32):
                fresh = X[start : start + 32].clone()
                alive.append(weakref.ref(fresh))
                yield fresh, Y[start : start + 32]

    data = read(Watched())
    most = 0
    gc.collect()
    gc.freeze()  # what was there before is not looked through for each batch
    for _ in data:
        gc.collect()
        most = max(most, sum(item() is not None for item in alive))
    assert most <= 3  # the first, the current one, and the one that is replaced


def test_a_loader_gives_its_batches_in_any_order_without_the_others() -> None:
    seen: list[int] = []

    class Counted(Dataset[Any]):
        def __len__(self) -> int:
            return 320

        def __getitem__(self, index: int) -> Any:
            seen.append(index)
            return X[index], Y[index]

    data = read(DataLoader(Counted(), 32))
    seen.clear()
    assert torch.equal(data[7].inputs[0], X[224:256])
    assert seen == list(range(224, 256))
    places = [4, 1]
    found = [batch.targets for batch in data.in_order(places)]
    assert all(map(torch.equal, found, (Y[128:160], Y[32:64])))


def test_a_list_of_names_is_prepared_again_for_each_use() -> None:
    prepared: list[int] = []

    def prepare(start: int) -> Any:
        prepared.append(start)
        return X[start : start + 32], Y[start : start + 32]

    data = read(list(range(0, 320, 32)), prepare=prepare)
    prepared.clear()
    assert torch.equal(data[3].inputs[0], X[96:128])
    assert prepared == [96]


def test_batches_that_change_from_pass_to_pass_are_refused_by_name() -> None:
    class Random:
        def __iter__(self) -> Iterator[Any]:
            for start in range(0, 320, 32):
                yield torch.randn(32, 16), Y[start : start + 32]

    data = read(Random())
    with pytest.raises(DataError, match="evaluation batch 0 is another one than when"):
        list(data)


def test_a_source_that_ends_early_is_refused() -> None:
    lengths = iter([10, 4])

    class Shrinking:
        def __iter__(self) -> Iterator[Any]:
            return iter(list(Stream())[: next(lengths)])

    data = read(Shrinking())
    with pytest.raises(DataError, match="evaluation batch 4 is another one"):
        list(data)


def test_a_generator_is_kept_since_it_cannot_be_read_again() -> None:
    assert isinstance(read(iter(Stream())), tuple)


def test_a_stream_without_an_order_is_not_judged_by_its_beginning() -> None:
    data = read(Again())
    functions = {"accuracy": metrics.accuracy}
    reference = run_reference(run, data, functions)
    threshold = Threshold(accuracy_drop=-1.0, rival=None)
    found = measure_quality(rough, reference, functions, Kind.MEASURED, threshold=threshold)
    assert found.stopped is None
    loader = run_reference(run, read(SOURCES["loader"]()), functions)
    stopped = measure_quality(rough, loader, functions, Kind.MEASURED, threshold=threshold)
    assert stopped.stopped is not None


def test_calibration_of_streamed_data_is_that_of_the_data_in_memory() -> None:
    data = read(SOURCES["loader"]())
    captured = capture(MODEL, data[0].inputs)
    streamed = calibrate(captured, InputsOf(data))
    kept = calibrate(captured, [batch.inputs for batch in data])
    assert streamed.digest == kept.digest
    assert streamed.samples == 320
    assert streamed.tensors.keys() == kept.tensors.keys()


def test_streamed_data_work_in_another_process() -> None:
    data = read(SOURCES["shuffled loader"]())
    again = cloudpickle.loads(cloudpickle.dumps(data))
    for first, second in zip(data, again, strict=True):
        assert torch.equal(first.inputs[0], second.inputs[0])


def test_the_first_samples_of_streamed_data_need_no_more_than_their_batches() -> None:
    source = Again()
    data = read(source)
    kept = take_samples(data, 40)
    assert [len(batch) for batch in kept] == [32, 8]
    assert source.passes == 2


def test_outputs_beyond_the_cache_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = tuple(Batch((X[start : start + 32],), Y[start : start + 32]) for start in (0, 32, 64))
    functions = {"accuracy": metrics.accuracy}
    whole = measure_quality(rough, run_reference(run, batches, functions), functions, Kind.MEASURED)
    monkeypatch.setattr("autoquant.searching.measuring.quality.CACHE_BYTES", 600)
    reference = run_reference(run, batches, functions)
    assert len(reference.outputs) == 1
    found = measure_quality(rough, reference, functions, Kind.MEASURED)
    assert found.measurements == whole.measurements


def test_a_model_of_one_layer_reads_its_own_data() -> None:
    reader = DataReader(nn.Linear(16, 2), DataForm(cache_bytes=SMALL))
    data = reader.read(SOURCES["loader"](), "calibration", needs_targets=False)
    assert reader.dynamic == ((0,),)
    assert isinstance(data, StreamedBatches)


@dataclass
class Pair:
    x: Tensor
    label: Tensor


def test_a_dataclass_names_its_targets_as_a_mapping_does() -> None:
    reader = DataReader(seeded(LinearNet), DataForm(target="label"))
    pairs = [Pair(torch.randn(4, 16), torch.arange(4)) for _ in range(2)]
    found = reader.read(pairs, "evaluation", needs_targets=True)
    assert torch.equal(found[1].inputs[0], pairs[1].x)
    assert found[1].targets.tolist() == [0, 1, 2, 3]


def test_a_dataset_of_samples_is_read_in_batches() -> None:
    inputs, labels = torch.randn(70, 16), torch.arange(70)
    reader = DataReader(seeded(LinearNet))
    found = reader.read(TensorDataset(inputs, labels), "evaluation", needs_targets=True)
    assert [len(batch) for batch in found] == [64, 6]
    assert torch.equal(torch.cat([batch.inputs[0] for batch in found]), inputs)
    assert torch.cat([batch.targets for batch in found]).tolist() == labels.tolist()


def test_a_list_of_single_samples_says_what_makes_batches() -> None:
    samples = [(torch.randn(16), torch.tensor(1)) for _ in range(4)]
    with pytest.raises(DataError, match="16 inputs but 1 targets") as refused:
        DataReader(seeded(LinearNet)).read(samples, "evaluation", needs_targets=True)
    assert "DataLoader(samples, batch_size=64)" in str(refused.value)


def test_the_key_that_forward_does_not_know_holds_the_targets() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 4)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.linear(pixels)

    data = [{"pixels": torch.randn(4, 16), "species": torch.arange(4)}]
    found = DataReader(Named().eval()).read(data, "evaluation", needs_targets=True)
    assert found[0].targets.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="species"):  # it may be a misspelt input
        DataReader(Named().eval()).read(data, "calibration", needs_targets=False)


def test_a_batch_without_labels_that_the_model_cannot_run_is_named() -> None:
    reader = DataReader(MODEL, against_float=True)
    with pytest.raises(ModelError, match="the model failed on evaluation batch 1 of shape"):
        reader.read([torch.randn(4, 16), torch.randn(4, 15)], "evaluation", needs_targets=True)
