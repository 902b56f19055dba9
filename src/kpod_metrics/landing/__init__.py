"""The page at `/`: HTML for people, made on request from the last published cycle."""
