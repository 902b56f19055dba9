"""What collectors are made of: readers that several share, and the larger parts of one."""
