"""`make scaling`: what Dropcap does under load, by simulation, and what limits it first."""
