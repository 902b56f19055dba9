"""Bad input for every parser: what is read (targets), how it is spoiled (mutate), who drives it (drive)."""
