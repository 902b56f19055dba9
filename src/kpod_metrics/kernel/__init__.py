"""The kernel's side: libbpf by ctypes, layouts from BTF, cumulative maps, feature probes."""
