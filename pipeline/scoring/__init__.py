"""Samples and what they are worth: how they are drawn and kept, what judges them, what chooses among them."""
