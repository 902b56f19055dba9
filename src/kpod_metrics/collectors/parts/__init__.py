"""Parts of collectors: readers that several share, and larger parts of one."""
