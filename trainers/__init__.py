"""Trainers that ship with hhchat, one algorithm a file."""
