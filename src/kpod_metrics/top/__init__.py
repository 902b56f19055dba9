"""`kpod-metrics top`: what each pod waits for, live in a terminal or once as text.

A page comes from a running agent or from one in this process (`sources`), is decoded (`page`), compared with the page
of the previous cycle (`figures`), and shown (`columns`, `plain`, `frame`, `screen`). `run` imports nothing of this.
"""
