"""Attacks by the servers and files that the agent trusts: an API server that another user controls, a configuration."""

from __future__ import annotations

import json
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

from kpod_metrics.pods.client import LINE_TIMEOUT
from kpod_metrics.pods.reflector import LIST_SECONDS, MAX_PAGES
from kpod_metrics.pods.source import MAX_PODS
from kpod_metrics.pods.stream import MAX_ENVELOPE, MAX_LIST, MAX_OBJECT
from kpod_metrics.yaml_file import MAX_BYTES, MAX_DEPTH, MAX_NODES
from testkit.apiserver import pod_object
from tests.live.agents import COMMAND, eventually
from tests.reliability.tenants.declared import Attack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.reliability.tenants.node import Fight

CONNECTED = "kpod_pod_source_connected"


class _Handler(BaseHTTPRequestHandler):
    """Ends each watch, so that the agent lists all pods; a list is what the attack says."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer, until the agent has enough."""
        with suppress(OSError):
            if "watch=true" in self.path:
                self._answer([json.dumps({"kind": "Status", "code": 410, "reason": "Expired"}).encode()], 410)
            else:
                self.server.lists += 1
                self._answer(self.server.pieces())
        self.close_connection = True

    def _answer(self, pieces: Iterator[bytes] | list[bytes], status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, value in self.server.headers.items() if status == 200 else ():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, attack: HostileServer, size: int) -> None:
        self.lists = 0
        """Lists that the agent asked for."""
        self.headers = attack.headers
        self.pieces: Callable[[], Iterator[bytes]] = lambda: attack.body(size)
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """The agent may leave."""


class HostileServer(Attack):
    """An API server whose lists are attacks."""

    names_pods = False
    alone = True
    headers: ClassVar[dict[str, str]] = {}

    def body(self, size: int) -> Iterator[bytes]:
        """A list, in pieces."""
        raise NotImplementedError

    def attack(self, fight: Fight) -> None:
        """Take the place of the API server until the agent has asked twice."""
        fight.node.api.stop()
        self._ended = threading.Event()
        self._server = _Server(fight.node.api.port, self, fight.size)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        fight.stack.callback(self._end)
        eventually(lambda: self._server.lists >= self.lists)

    lists: ClassVar[int] = 2
    """Lists that are asked for before the attack counts as made."""

    def _end(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def check(self, fight: Fight) -> None:
        """The source is off, and the agent says so."""
        eventually(lambda: fight.node.page().sum(CONNECTED) == 0)

    def stop(self, fight: Fight) -> None:
        """Have the API server back."""
        self._end()
        fight.node.api.start()


class GzipBomb(HostileServer):
    name = "a list that is a gzip bomb"
    does = "The API server or the kubelet sends some hundred KB of gzip that are hundreds of MB"
    bound = f"{MAX_OBJECT >> 20} MiB of a pod, {MAX_ENVELOPE >> 20} MiB of a list beside its pods, both decoded"
    at_bound = "the answer is refused; the pods stay as they were"
    metric = CONNECTED
    sizes = (100, 400, 800)
    headers: ClassVar = {"Content-Encoding": "gzip"}

    def body(self, size: int) -> Iterator[bytes]:
        """So many MiB of white space. After a full flush the same bytes are the same MiB again."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        mebibyte = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        yield b"\x1f\x8b\x08" + bytes(7)
        for _ in range(size):
            yield mebibyte


class EndlessList(HostileServer):
    name = "a list without an end"
    does = "The API server sends page after page of a list, each with a token for the next one"
    bound = f"{MAX_PAGES} pages and {MAX_LIST >> 30} GiB of a list; {MAX_PODS:,} pods"
    at_bound = "the list is refused; the pods stay as they were"
    metric = CONNECTED
    sizes = (10, 100, 500)

    def body(self, size: int) -> Iterator[bytes]:
        """So many pods in a page; one page is like another."""
        items = [pod_object(f"pod-{at}") for at in range(size)]
        metadata = {"resourceVersion": "1", "continue": "more"}
        yield json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}).encode()


class DrippingList(HostileServer):
    name = "a list that drips"
    does = "The API server sends a list byte by byte, for ever"
    bound = f"{LIST_SECONDS:.0f} s for a whole list"
    at_bound = "the list is ended; the pods stay as they were"
    metric = CONNECTED
    sizes = (1, 100, 1_000)
    lists = 1

    def body(self, size: int) -> Iterator[bytes]:
        """So many bytes each second."""
        yield b'{"kind":"PodList","metadata":{},"items":['
        while not self._ended.wait(1 / size):
            yield b" "

    def check(self, fight: Fight) -> None:
        """The bound is more than a minute: it is awaited only with the largest."""
        if fight.size == self.sizes[-1]:
            eventually(lambda: fight.node.page().sum(CONNECTED) == 0, 2 * LIST_SECONDS)


class EndlessLine(Attack):
    name = "an event without an end"
    does = "The API server sends an event of a watch that has no end of line"
    bound = f"{MAX_OBJECT >> 20} MiB and {LINE_TIMEOUT:.0f} s of an event"
    at_bound = "the watch is ended, and all pods are listed again"
    metric = "kpod_pod_source_relists_total"
    sizes = (20, 50, 100)

    def attack(self, fight: Fight) -> None:
        """So many MiB."""
        eventually(lambda: fight.node.api.watches)
        fight.node.api.send_raw(b"x" * (fight.size << 20))


class YamlAnchors(Attack):
    name = "a configuration of nested anchors"
    does = "A YAML file has anchors that contain each other many times"
    bound = (
        f"no anchors and aliases; {MAX_BYTES >> 20} MiB, {MAX_NODES:,} keys and values, {MAX_DEPTH} levels of a file"
    )
    at_bound = "the agent ends with status 2 and one line"
    quick = True
    sizes = (5, 9, 30)
    is_file = True

    def file(self, folder: Path, size: int) -> None:
        """Refuse it, without all that it stands for."""
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, size)]
        path = folder / "config.yaml"
        path.write_text("\n".join(lines) + f"\nlisten: *a{size - 1}\n")
        for flag in ("--config", "--web-config-file", "--kubeconfig"):
            extra = ["--discovery", "kubernetes", "--node-name", "n"] if flag == "--kubeconfig" else []
            command = [COMMAND, "run", flag, path, *extra]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 2, done.stderr[:1000]
            assert len(done.stderr) < 1000


ATTACKS = (GzipBomb, EndlessList, EndlessLine, DrippingList, YamlAnchors)
