"""The kernels of the live tests, all from Debian. One more is one line."""

from testkit.vm.kernels import Kernel

KERNELS = (
    Kernel("5.10", "bullseye", r"linux-image-5\.10\.\d+-\d+-cloud-amd64"),
    Kernel("6.1", "bookworm", r"linux-image-6\.1\.\d+-\d+-cloud-amd64"),
    Kernel("6.12", "trixie", r"linux-image-6\.12\.\d+\+deb13-cloud-amd64", monitoring=True, counted=True),
    Kernel("newest", "trixie-backports", r"linux-image-\d+\.\d+\.\d+\+deb13-cloud-amd64"),
    Kernel("6.1-arm64", "bookworm", r"linux-image-6\.1\.\d+-\d+-cloud-arm64", "arm64"),
)
