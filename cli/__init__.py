"""The program `longsight`: one command per step, each importing its own room when it runs."""
