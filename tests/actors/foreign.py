"""A Ray cluster of somebody else, with an application of theirs in Ray Serve; runs until its standard input ends."""

from __future__ import annotations

import sys

import ray
from ray import serve
from starlette.requests import Request


class Foreign:
    def __call__(self, _request: Request) -> str:
        return "foreign"


def main(port: int) -> None:
    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment = serve.deployment(Foreign, name="Foreign", ray_actor_options={"num_cpus": 0})
    serve.run(deployment.bind(), name="foreign", route_prefix="/foreign")
    sys.stdout.write(f"{ray.get_runtime_context().gcs_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
