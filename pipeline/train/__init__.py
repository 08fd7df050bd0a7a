"""The training stages. Each takes the folder of the stage before it and leaves a Hugging Face folder `final/`."""
