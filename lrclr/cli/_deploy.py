"""`lrclr deploy`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lrclr.cli._console import RESEARCH_ONLY, note, out
from lrclr.cli._extras import require

app = typer.Typer(help="Write a Helm chart that serves a bundle in a cluster.", add_completion=False)


def _write(  # noqa: PLR0913, PLR0917 - one parameter an option
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle. The values of the chart come from it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the chart.")],
    image: Annotated[
        str,
        typer.Option(
            "--image", help="Container image with Triton and lrclr; see lrclr/triton/server/container/Containerfile."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the release and its objects.")] = "lrclr",
    source: Annotated[
        str | None,
        typer.Option(
            "--bundle-from",
            help="Source of the bundle: pvc://CLAIM[/PATH], oci://IMAGE@DIGEST or s3://BUCKET/PATH.  [default: pvc://NAME-bundle]",
        ),
    ] = None,
    fetch_image: Annotated[
        str | None, typer.Option("--fetch-image", help="Container image with rclone, for s3://.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Name of the Secret with the environment of rclone, for s3://.")
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--cpu-only", help="One GPU per server, or none.  [default: as the bundle's engine needs]"),
    ] = None,
    gpu_resource: Annotated[
        str, typer.Option("--gpu-resource", help="Name of the GPU resource in the cluster.")
    ] = "nvidia.com/gpu",
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory of a server, such as 6Gi.  [default: computed from the bundle]"),
    ] = None,
    cpu: Annotated[str | None, typer.Option("--cpu", help="Cores requested for a server.  [default: 2]")] = None,
    instances: Annotated[
        int | None, typer.Option("--instances", help="Processes that decode images and answer requests, per server.")
    ] = None,
    min_replicas: Annotated[int, typer.Option("--min-replicas", help="Smallest number of servers.")] = 2,
    max_replicas: Annotated[int, typer.Option("--max-replicas", help="Largest number of servers.")] = 8,
    waiting: Annotated[
        int | None,
        typer.Option(
            "--waiting",
            help="Waiting requests per server at which the autoscaler adds servers.  [default: half of --instances]",
        ),
    ] = None,
    clients: Annotated[
        str, typer.Option("--clients", help="Label of the pods that may send requests, KEY=VALUE.")
    ] = "lrclr-client=true",
    monitoring: Annotated[
        str, typer.Option("--monitoring", help="Namespace that may read the metrics.")
    ] = "monitoring",
    service_account: Annotated[
        str | None, typer.Option("--service-account", help="Service account of the pods.")
    ] = None,
    pull_secret: Annotated[
        str | None, typer.Option("--pull-secret", help="Name of the Secret for the image registry.")
    ] = None,
    exit_timeout: Annotated[
        int, typer.Option("--exit-timeout", help="Seconds for requests in flight when a server is stopped.")
    ] = 30,
    ipv6: Annotated[
        bool, typer.Option("--ipv6", help="Listen on IPv6 addresses, for pods whose first address is IPv6.")
    ] = False,
) -> None:
    require("deploy")
    from lrclr.deploy import DeployOptions, write_kserve, write_kubernetes

    options = DeployOptions(
        image=image,
        name=name,
        source=source,
        fetch_image=fetch_image,
        secret=secret,
        gpu=gpu,
        gpu_resource=gpu_resource,
        memory=memory,
        cpu=cpu,
        instances=instances,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        waiting=waiting,
        clients=clients,
        monitoring=monitoring,
        service_account=service_account,
        pull_secret=pull_secret,
        exit_timeout=exit_timeout,
        ipv6=ipv6,
    )
    write = write_kubernetes if context.info_name == "kubernetes" else write_kserve
    for file in write(bundle, output, options):
        out().print(str(file))
    note(f"install it with: helm install {name} {shlex.quote(str(output))} --namespace NAMESPACE")
    note(RESEARCH_ONLY)


_REPLACED = "An existing folder is replaced if it contains only files that this command wrote."
app.command(
    "kubernetes",
    short_help="Write a chart with a Deployment and an autoscaler.",
    help=f"""Write a Helm chart: a Deployment, Services, an autoscaler, a disruption budget, a network policy and
    monitoring. {_REPLACED}""",
)(_write)
app.command(
    "kserve",
    short_help="Write a chart for KServe.",
    help=f"""Write a Helm chart: a ServingRuntime and an InferenceService, with the same policies and monitoring as
    `kubernetes`. {_REPLACED}""",
)(_write)
