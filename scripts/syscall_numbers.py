"""Write `src/kpod_metrics/kernel/_syscall_numbers.py` from the kernel's own headers for programs.

    scripts/syscall_numbers.py DIRECTORY

DIRECTORY is Debian's linux-libc-dev, unpacked: from Linux 6.12 on (trixie) that one package has the headers of every
architecture. A newer one knows more syscalls:

    apt-get download linux-libc-dev && dpkg -x linux-libc-dev_*.deb DIRECTORY
"""

import re
import sys
import textwrap
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src" / "kpod_metrics" / "kernel" / "_syscall_numbers.py"
HEADERS = {
    "X86_64": "x86/asm/unistd_64.h",
    "I386": "x86/asm/unistd_32.h",
    "ARM64": "arm64/asm/unistd_64.h",
    "ARM": "arm/asm/unistd-eabi.h",
}
DEFINITION = re.compile(r"^#define __NR_(\w+)\s+(?:\(__NR_SYSCALL_BASE \+ )?(\d+)\)?$", re.MULTILINE)


def main() -> None:
    """Read the headers, write the module."""
    root = Path(sys.argv[1]) / "usr"
    version = re.search(r"LINUX_VERSION_CODE (\d+)", (root / "include/linux/version.h").read_text())
    assert version
    parts = [
        f'"""Syscall numbers of Linux {int(version[1]) >> 16}.{int(version[1]) >> 8 & 0xFF}: '
        "made by scripts/syscall_numbers.py, not to be edited.\n\n"
        'A number says where the names after it begin; each is one more than the name before it.\n"""\n'
    ]
    for name, header in HEADERS.items():
        found = DEFINITION.findall((root / "lib/linux/uapi" / header).read_text())
        numbers = {int(number): syscall for syscall, number in found}
        assert len(numbers) == len(found) > 300, f"{header}: a number twice, or not the header it was"
        words = []
        for number, syscall in sorted(numbers.items()):
            if number - 1 not in numbers:
                words.append(str(number))
            words.append(syscall)
        parts.append(f'\n{name} = """\n' + "\n".join(textwrap.wrap(" ".join(words), 118)) + '\n"""\n')
    TARGET.write_text("".join(parts))


if __name__ == "__main__":
    main()
