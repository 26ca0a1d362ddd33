"""How a stage runs: in which processes, on which machines; how they meet, stop, go on and are watched."""
