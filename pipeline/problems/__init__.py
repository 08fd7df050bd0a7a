"""Problems on their way to the model: loaded and split up, encoded as tokens, put into batches."""
