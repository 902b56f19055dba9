"""`kpod-metrics top`: what each pod is waiting for, live in a terminal or once as text.

A page comes from a running agent or from an agent of top's own (`sources`), is decoded (`page`), compared with the one
of the cycle before (`rates`), and shown (`columns`, `plain`, `frame`, `screen`). Nothing here is imported by `run`.
"""
