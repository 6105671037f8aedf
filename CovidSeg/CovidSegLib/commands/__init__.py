"""The commands of `covidseg`, and what they print."""
