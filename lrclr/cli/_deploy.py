"""`lrclr deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lrclr.cli._console import RESEARCH_ONLY, note, out
from lrclr.cli._extras import require_deploy

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(help="Write a Helm chart that puts a bundle on many servers.", add_completion=False)

_Bundle = Annotated[Path, typer.Argument(help="The bundle's folder; the chart's values are made from it.")]
_Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the chart.")]
_Image = Annotated[
    str, typer.Option("--image", help="lrclr on a Triton server: see lrclr/triton/server/container/Containerfile.")
]
_Name = Annotated[str, typer.Option("--name", help="Name of everything in the cluster.")]
_Source = Annotated[
    str | None,
    typer.Option(
        "--bundle-from",
        help="pvc://CLAIM[/PATH], oci://IMAGE@DIGEST or s3://BUCKET/PATH.  [default: pvc://NAME-bundle]",
    ),
]
_FetchImage = Annotated[str | None, typer.Option("--fetch-image", help="An image with rclone, for s3://.")]
_Secret = Annotated[
    str | None, typer.Option("--secret", help="Name of the Secret that is rclone's environment, for s3://.")
]
_Gpu = Annotated[
    bool | None, typer.Option("--gpu/--cpu-only", help="One GPU a server, or none; as the bundle's engine wants it.")
]
_GpuResource = Annotated[str, typer.Option("--gpu-resource", help="What the cluster calls a GPU.")]
_Memory = Annotated[str | None, typer.Option("--memory", help="Of a server, such as 6Gi, instead of the rule's.")]
_Cpu = Annotated[str | None, typer.Option("--cpu", help="Cores that a server asks for.  [default: 2]")]
_Instances = Annotated[int | None, typer.Option("--instances", help="Processes of the model lrclr.")]
_Least = Annotated[int, typer.Option("--min-replicas", help="Fewest servers.")]
_Most = Annotated[int, typer.Option("--max-replicas", help="Most servers.")]
_Waiting = Annotated[
    int | None,
    typer.Option("--waiting", help="Requests that may wait in a server.  [default: half as many as its processes]"),
]
_Clients = Annotated[str, typer.Option("--clients", help="Label of the pods that may ask, KEY=VALUE.")]
_Monitoring = Annotated[str, typer.Option("--monitoring", help="Namespace that may read the metrics.")]
_Account = Annotated[str | None, typer.Option("--service-account", help="Name of the account that the pods run as.")]
_Pull = Annotated[str | None, typer.Option("--pull-secret", help="Name of the Secret that opens the registry.")]
_Ipv6 = Annotated[
    bool, typer.Option("--ipv6", help="Listen on IPv6 addresses: for pods whose first address is of that kind.")
]
_Exit = Annotated[int, typer.Option("--exit-timeout", help="Seconds that requests in flight have at the end.")]


def _command(platform: Literal["kubernetes", "kserve"]) -> Callable[..., None]:
    def command(  # noqa: PLR0913, PLR0917 - one parameter an option
        bundle: _Bundle,
        output: _Output,
        image: _Image,
        name: _Name = "lrclr",
        source: _Source = None,
        fetch_image: _FetchImage = None,
        secret: _Secret = None,
        gpu: _Gpu = None,
        gpu_resource: _GpuResource = "nvidia.com/gpu",
        memory: _Memory = None,
        cpu: _Cpu = None,
        instances: _Instances = None,
        min_replicas: _Least = 2,
        max_replicas: _Most = 8,
        waiting: _Waiting = None,
        clients: _Clients = "lrclr-client=true",
        monitoring: _Monitoring = "monitoring",
        service_account: _Account = None,
        pull_secret: _Pull = None,
        exit_timeout: _Exit = 30,
        ipv6: _Ipv6 = False,
    ) -> None:
        require_deploy()
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
        write = write_kubernetes if platform == "kubernetes" else write_kserve
        for file in write(bundle, output, options):
            out().print(str(file))
        note(f"install it with: helm install {name} {output} --namespace NAMESPACE")
        note(RESEARCH_ONLY)

    return command


_REPLACED = "The folder is made, or replaced where it holds only what this command wrote."
app.command(
    "kubernetes",
    help=f"""Write a Helm chart: a Deployment, Services, an autoscaler, a disruption budget, a network policy, and what
    monitors them. {_REPLACED}""",
)(_command("kubernetes"))
app.command(
    "kserve",
    help=f"""Write a Helm chart: a ServingRuntime and an InferenceService, and around them what `kubernetes` writes.
    {_REPLACED}""",
)(_command("kserve"))
