"""The model as users call it: built, loaded, and asked questions."""
