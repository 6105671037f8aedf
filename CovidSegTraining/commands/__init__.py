"""The commands of `covidseg-train`."""
