"""How much memory the stages of a recipe take, found without the weights: a step of each is run on tensors that have
shapes and no data (`ledger`), over a model built so (`weightless`). What a process of several holds follows from it
(`sharding`)."""
