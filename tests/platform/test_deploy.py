"""The files of deploy/, each read by the tools that it is for.

A cluster is read by three: the fields of a RayCluster as dagster-ray declares them, its pods and the network policy by the schemas
of Kubernetes itself, and all of it by Ray's own reader of such clusters, which here gets the file in place of the API server's
answer.
"""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import tiny
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef

from avalanche_dagster.definitions import defs

DEPLOY = tiny.REPO / "deploy"
POSTGRES = {"HOST": "db", "PORT": "5432", "USERNAME": "u", "PASSWORD": "secret-word", "DB": "d"}
LOCKED = dict(re.findall(r"^(\S+)==(\S+)$", (tiny.REPO / "requirements-platform.lock").read_text(encoding="utf-8"), re.M))


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def test_the_postgres_settings_pass_the_schema_of_an_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_postgres")
    for name, value in POSTGRES.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    monkeypatch.setenv("DAGSTER_SHARED_DIR", str(tmp_path / "shared"))
    (tmp_path / "dagster.yaml").write_bytes((DEPLOY / "dagster.postgres.yaml").read_bytes())
    settings, _ = dagster_instance_config(str(tmp_path))
    assert settings["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    handed_on = str(InstanceRef.from_dir(str(tmp_path)).to_dict())  # what a step's command line holds
    assert "DAGSTER_PG_PASSWORD" in handed_on
    assert "secret-word" not in handed_on


def test_the_run_config_fits_every_job_on_ray() -> None:
    pytest.importorskip("dagster_ray")
    (config,) = documents("ray.run.yaml")
    for name in ("phase2_gain_grid_on_ray", "full_pipeline_on_ray"):
        job = defs.resolve_job_def(name)
        assert dg.validate_run_config(job, config)
        wrong = config | {"resources": {"instrument": {"config": {"modle": ""}}}}
        with pytest.raises(dg.DagsterInvalidConfigError, match="modle"):
            dg.validate_run_config(job, wrong)


def test_the_ray_cluster_has_only_fields_that_kuberay_knows() -> None:
    """dagster-ray declares every field of the operator's RayCluster and checks what the operator would refuse late."""
    configs = pytest.importorskip("dagster_ray.kuberay.configs")
    cluster, policy = documents("kuberay.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    snake = {re.sub("(?<!^)(?=[A-Z])", "_", name).lower(): value for name, value in cluster["spec"].items()}
    spec = configs.RayClusterSpec(**snake)
    assert not spec.model_extra
    assert spec.auth_options.mode == "token"
    assert spec.ray_version == LOCKED["ray"]
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_pods_and_network_policy_pass_the_schemas_of_kubernetes() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    cluster, policy = documents("kuberay.yaml")

    def check(resource: dict[str, Any]) -> None:
        kubernetes.validate(resource, kubernetes.latest_version(), strict=True)

    check(policy)
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
        check(pod)
        group["template"]["spec"]["containers"][0]["envFrm"] = []
        with pytest.raises(kubernetes.ValidationError, match="envFrm"):
            check(pod)


def test_ray_reads_from_the_cluster_what_its_nodes_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU and 8 cores a worker, four workers, no step on the head; a step asks for one GPU."""
    reader = pytest.importorskip("ray.autoscaler._private.kuberay.autoscaling_config")
    cluster, _ = documents("kuberay.yaml")

    class ApiServer:
        def __init__(self, namespace: str) -> None:
            self.namespace = namespace

        def get(self, path: str) -> dict[str, Any]:
            assert path == f"rayclusters/{cluster['metadata']['name']}"
            return cluster | {"metadata": cluster["metadata"] | {"namespace": self.namespace}}

    monkeypatch.setattr(reader.node_provider, "KubernetesHttpApiClient", ApiServer)
    found = reader.AutoscalingConfigProducer("avalanche", "default")()
    nodes = found["available_node_types"]
    assert found["max_workers"] == 4
    assert nodes["headgroup"]["resources"] == {"CPU": 0, "memory": 8 * 2**30}
    assert (nodes["gpu"]["min_workers"], nodes["gpu"]["max_workers"]) == (4, 4)
    assert nodes["gpu"]["resources"] == {"CPU": 8, "GPU": 1, "memory": 64 * 2**30}


def test_a_worker_offers_what_a_step_takes() -> None:
    cluster, _ = documents("kuberay.yaml")
    head, (group,) = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == worker["resources"]["requests"]
    assert float(worker["resources"]["limits"]["nvidia.com/gpu"]) >= 1.0
    mounts = {mount["name"]: mount["mountPath"] for mount in worker["volumeMounts"]}
    for container in (worker, head["template"]["spec"]["containers"][0]):
        assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == mounts
        for variable in container["env"]:
            assert variable["value"].startswith(mounts["shared"])
