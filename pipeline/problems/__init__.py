"""Problems as a model sees them: loaded, parted, encoded, and put into batches."""
