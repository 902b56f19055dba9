"""The page at `/`: for a person, made when asked for, from what the last cycle published."""
