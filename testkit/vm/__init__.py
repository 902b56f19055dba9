"""Virtual machines with kernels of Debian's, in an emulator."""
