"""From cgroups to pods: sources say what runs here, the resolver names what the kernel programs saw."""
