"""The compiled BPF objects, put here by the build hook."""
