"""The chart's web configuration: a secret that is mounted and renewed without a restart, probes that show nothing."""

import http.client
import ssl
from dataclasses import replace
from pathlib import Path

import bcrypt
import yaml

from testkit.certificates import Certificates
from tests.image.cluster import Cluster
from tests.image.conftest import POD
from tests.image.pod import write_volume
from tests.live.agents import eventually, get


def secret(certificates: Certificates, name: str, password: bytes) -> dict[str, str]:
    """What `kubectl create secret` would make."""
    certificate, key = certificates.signed(name, f"IP:{POD}")
    config = {
        "tls_server_config": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "basic_auth_users": {"prometheus": bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()},
    }
    files = {"tls.crt": Path(certificate).read_text(), "tls.key": Path(key).read_text()}
    return {"web-config.yaml": yaml.safe_dump(config), **files}


def test_secret_and_probes(cluster: Cluster, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=certificates.ca)

    def scrape(basic: str) -> tuple[int, object]:
        """Status, and the serial number of the certificate."""
        client = http.client.HTTPSConnection(POD, 9090, timeout=10, context=context)
        client.connect()
        assert isinstance(client.sock, ssl.SSLSocket)
        certificate = client.sock.getpeercert()
        client.request("GET", "/metrics", headers={"Authorization": f"Basic {basic}"})
        status = client.getresponse().status
        client.close()
        assert certificate is not None
        return status, certificate["serialNumber"]

    old, new = "cHJvbWV0aGV1czpvbGQ=", "cHJvbWV0aGV1czpuZXc="  # prometheus:old, prometheus:new
    rendered = cluster.render("webConfig.secretName=web")
    cluster.node.secrets = {"web": secret(certificates, "pod", b"old")}
    probed = replace(cluster, url=f"http://{POD}:{rendered.container['ports'][1]['containerPort']}")
    with probed.agent(rendered) as agent:
        assert agent.ready() == "ready\n"
        assert get(f"{agent.url}/healthz") == "ok\n"
        status, serial = scrape(old)
        assert (status, scrape(new)[0]) == (200, 401)
        write_volume(cluster.node.folder_of("web"), secret(certificates, "renewed", b"new"), 0o400)
        eventually(lambda: scrape(new)[0] == 200)
        assert scrape(old)[0] == 401
        assert scrape(new)[1] != serial
