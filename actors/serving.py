"""The cell's application in Ray Serve, which others may use too; not what it answers (see ingress)."""

from __future__ import annotations

from threading import Lock

from ray import serve
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeInstanceDetails
from ray.util import get_node_ip_address

from actors.ingress import ingress_app
from actors.preflight import check_port
from actors.watch import Say
from genserve.config import Settings
from genserve.errors import CallerError

ANY_HOST = ("0.0.0.0", "::")  # noqa: S104


class Serving:
    """``start`` and ``stop`` are a pair. Applications of others are left alone, and so is Serve where it is theirs."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._name = settings.cluster.name
        self._prefix = settings.http.route_prefix
        self._turn = Lock()
        self._has_begun = False
        self._is_serve_ours = False
        self.url = self._url(settings.http.host, settings.http.port)

    def check(self, *, is_name_ours: bool) -> None:
        """Whether name, route and port are free; raises CallerError.

        ``is_name_ours``: an application of this name was left behind by an earlier start of this cell.
        """
        found = _find_serve()
        if found is None:
            check_port(self._settings.http)
            return
        if found.http_options is None or found.proxy_location == ProxyLocation.Disabled:
            raise CallerError("no_http", "Ray Serve runs in this cluster with HTTP switched off; nobody could call")
        if self._name in found.applications and not is_name_ours:
            message = f"cluster.name: another application named {self._name!r} runs in Ray Serve; take another name"
            raise CallerError("name_taken", message)
        for name, other in found.applications.items():
            if other.route_prefix == self._prefix and name != self._name:
                message = f"http.route_prefix: {self._prefix} is served by the application {name!r}; take another one"
                raise CallerError("route_prefix_taken", message)

    def start(self) -> None:
        """Returns when requests are answered at ``url``."""
        http = self._settings.http
        with self._turn:
            self._has_begun = True
            self._is_serve_ours = _find_serve() is None
            if self._is_serve_ours:
                serve.start(http_options={"host": http.host, "port": http.port})
            serve.run(ingress_app(self._settings), name=self._name, route_prefix=self._prefix)
            self._find_url()

    def stop(self) -> None:
        """Take the application down; Serve too, if it came with this cell and nobody else uses it.

        A start that somebody no longer waits for goes on in its thread, hence the lock.
        """
        with self._turn:
            if self._has_begun:
                self.remove()

    def remove(self) -> None:
        """What runs under this name, whoever started it."""
        found = _find_serve()
        if found is None:
            return
        if self._is_serve_ours and found.applications.keys() <= {self._name}:
            serve.shutdown()  # type: ignore[no-untyped-call]
        elif self._name in found.applications:
            serve.delete(self._name)

    def _find_url(self) -> None:
        """Where Serve listens: it keeps the host and the port that it was first started with."""
        found = _find_serve()
        if found is None or found.http_options is None:
            return
        host, port = found.http_options.host, found.http_options.port
        nodes = sorted(proxy.node_ip for proxy in found.proxies.values() if proxy.node_ip)
        if not self._is_serve_ours:
            self._say(
                f"Ray Serve: runs already and listens at {host}:{port} of {', '.join(nodes)}; "
                "http.host and http.port of these settings do not apply"
            )
        if host in ANY_HOST and nodes:
            here: str = get_node_ip_address()  # type: ignore[no-untyped-call]
            host = here if here in nodes else nodes[0]
        self.url = self._url(host, port)

    def _url(self, host: str, port: int) -> str:
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{port}{self._prefix.rstrip('/')}"


def _find_serve() -> ServeInstanceDetails | None:
    """What runs in Ray Serve, or None where Serve does not run in this cluster.

    ``serve.status`` tells neither addresses nor routes, hence the client behind it.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else ServeInstanceDetails(**client.get_serve_details())
