"""The manifest is what KubeRay takes, and what it runs is a job; no cluster is asked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from autoquant.job import load_job
from tests.integration.bad_inputs.stage import write_job

DEPLOY = Path(__file__).parents[2] / "deploy"

JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy"),
    *("metadata", "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "suspend"),
    *("submissionMode", "submitterConfig", "submitterPodTemplate", "ttlSecondsAfterFinished"),
}
GROUP = {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"}
"""Fields of ray.io/v1: https://ray-project.github.io/kuberay/reference/api/."""


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    return found


def test_the_manifest_names_fields_of_kuberay_alone() -> None:
    found = manifest()
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    assert found["spec"].keys() <= JOB
    cluster = found["spec"]["rayClusterSpec"]
    assert cluster.keys() == {"headGroupSpec", "workerGroupSpecs"}
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(type(value) is str for value in group["rayStartParams"].values())


def test_each_mount_of_the_manifest_has_its_volume() -> None:
    cluster = manifest()["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {
            item["name"] for box in pod["containers"] for item in box.get("volumeMounts", ())
        }
        assert mounted == {item["name"] for item in pod.get("volumes", ())}


def test_the_manifest_runs_a_search_with_overrides_that_a_job_takes(tmp_path: Path) -> None:
    words = shlex.split(manifest()["spec"]["entrypoint"])
    assert words[:3] == ["autoquant", "search", "/job/job.yaml"]
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    assert len(words) == 3 + 2 * len(overrides)
    execution = load_job(write_job(tmp_path), ["execution.kind=ray", *overrides]).execution
    assert execution.target is not None
    assert execution.target.resource == "bench"


def test_the_image_holds_what_the_probes_of_kuberay_call() -> None:
    assert "wget" in (DEPLOY / "Containerfile").read_text()
