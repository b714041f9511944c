"""Stagekeeper: audit and gate the authority of AI agents, from decisions to evidence to the next stage."""
