"""The chosen candidate as a model of MLflow's: the engine's own file, and how it is run."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from autoquant.results.recorders import Winner

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient

_CALLS = {
    ".ts": "[item.detach() for item in list_of(run(*map(torch.as_tensor, arrays)))]",
    ".onnx": "run(dict(zip([item.name for item in session.get_inputs()], arrays)))",
    ".xml": "list(run(arrays).values())",
}
"""By suffix of the engine's file: outputs of `run`, which the recipe makes, on `arrays`."""

_REQUIRED = {".ts": "torch", ".onnx": "onnxruntime", ".xml": "openvino"}
_PLACE = "PLACE-OF-THE-FILE"

# MLflow's wish, which the signature fulfils; here, since a filter that a thread in the background
# adds is lost where another holds `catch_warnings`
warnings.filterwarnings("ignore", message=".*An input example was not provided")

_CODE = """\
import mlflow
import numpy


def list_of(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


class Winner(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        place = context.artifacts["folder"] + "/{name}"
        {recipe}

        def answer(arrays):
            return {call}

        self.answer = answer

    def predict(self, context, model_input: numpy.ndarray, params=None):
        arrays = list(model_input.values()) if isinstance(model_input, dict) else [model_input]
        outputs = [numpy.asarray(item) for item in self.answer(arrays)]
        if len(outputs) == 1:
            return outputs[0]
        return {{f"output_{{index}}": item for index, item in enumerate(outputs)}}


mlflow.models.set_model(Winner())
"""


def log_winner(client: MlflowClient, experiment: str, run: str, winner: Winner) -> str | None:
    """Log the model to a search's run; gives its id, None where MLflow could not run its file.

    It is a pyfunc that needs the engine alone, not autoquant: it can be loaded, registered and
    served.
    """
    main = next((path for path in winner.files if path.suffix in _CALLS), None)
    if main is None:
        return None
    from mlflow.entities import LoggedModelOutput

    with tempfile.TemporaryDirectory() as scratch:
        folder = _save(winner, main, Path(scratch))
        model = client.create_logged_model(experiment, name="winner", source_run_id=run)
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _save(winner: Winner, main: Path, scratch: Path) -> Path:
    """Write the model as MLflow lays one out; gives its folder."""
    import mlflow.pyfunc

    files, code, folder = scratch / "files", scratch / "winner.py", scratch / "model"
    files.mkdir()
    for path in winner.files:
        shutil.copy(path, files)
    recipe = winner.recipe(Path(_PLACE)).replace(repr(_PLACE), "place")
    code.write_text(_CODE.format(name=main.name, recipe=recipe, call=_CALLS[main.suffix]))
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code),
        artifacts={"folder": str(files)},
        signature=_signature(winner),
        pip_requirements=["mlflow", "numpy", _REQUIRED[main.suffix]],
    )
    return folder


def _signature(winner: Winner) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    names = [f"input_{index}" for index in range(len(winner.example))]
    return ModelSignature(
        Schema(
            [
                TensorSpec(item.dtype, (-1,) * item.ndim, name if len(names) > 1 else None)
                for name, item in zip(names, winner.example, strict=True)
            ]
        )
    )
