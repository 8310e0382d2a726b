"""The command line: what the program `eggroll` does."""
