"""Virtual machines with Debian's kernels, in an emulator."""
