"""What a trained model can do: samples of it, measured, tabulated and compared."""
